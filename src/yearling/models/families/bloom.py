"""BLOOM: ALiBi positions, a norm behind the embedding, queries, keys and values fused by head.

Source: Le Scao et al. 2022, arXiv:2211.05100.
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.sizes import read_context, read_heads, read_layers, read_width
from yearling.models.spec import (
    Alibi,
    Attention,
    Embedding,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    Serial,
)
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_FUSED = WeightName("transformer.h.{layer}.self_attention.query_key_value", rows="groups")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.word_embeddings"),
    "embedding_norm": WeightName("transformer.word_embeddings_layernorm"),
    "mixer_norm": WeightName("transformer.h.{layer}.input_layernorm"),
    "query": _FUSED,
    "key": _FUSED,
    "value": _FUSED,
    "output": WeightName("transformer.h.{layer}.self_attention.dense"),
    "mlp_norm": WeightName("transformer.h.{layer}.post_attention_layernorm"),
    "up": WeightName("transformer.h.{layer}.mlp.dense_h_to_4h"),
    "down": WeightName("transformer.h.{layer}.mlp.dense_4h_to_h"),
    "final_norm": WeightName("transformer.ln_f"),
    "head": WeightName("lm_head"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("attention_dropout", "attention_softmax_in_fp32", "bias_dropout_fusion", "hidden_dropout"),
    *("hidden_size", "initializer_range", "layer_norm_epsilon", "masked_softmax_fusion", "n_embed"),
    *("n_head", "n_inner", "n_layer", "num_attention_heads", "offset_alibi", "pretraining_tp"),
    *("seq_length", "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact"),
    *("tie_word_embeddings", "unk_token_id", "vocab_size"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `bloom`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "n_embed" if "n_embed" in config else "hidden_size")
    heads = read_heads(
        config, "num_attention_heads" if "num_attention_heads" in config else "n_head"
    )
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    with config.checked():
        attention = Attention(
            heads, heads, width // heads, Alibi(), has_qkv_bias=True, has_output_bias=True
        )
    layer = LayerSpec(attention, Plain(4 * width, "gelu_tanh"), Serial(norm, norm))
    return ModelSpec(
        family="bloom",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=read_context(config, "seq_length", 2_048),
        embedding=Embedding(norm=norm),
        layers=(layer,) * read_layers(config, "n_layer"),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


family = families.register(
    Family(
        model_types=("bloom",),
        spec_from_config=spec_from_config,
        names=names,
        prefixes=("transformer.",),
    ),
    __name__,
)
