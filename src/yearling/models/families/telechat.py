"""TeleChat: LLaMA's arithmetic with key and value fused by head, and biases after each branch.

Its rotary base grows in steps with the sequence, and cosine and sine with its logarithm.

Source: Wang et al. 2024, arXiv:2401.03804; modeling_telechat.py of the published models.
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Rotary,
    RotaryScaling,
    Serial,
)
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_CONFIG_KEYS = COMMON_KEYS | {
    *("attention_dropout", "hidden_dropout", "initializer_range"),  # training only
    *("attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion"),
    *("flash_attn", "offset_alibi", "pretraining_tp", "skip_bias_add", "skip_bias_add_qkv"),
    *("base_seqlen", "ffn_hidden_size", "hidden_size", "layer_norm_epsilon", "n_head"),
    *("n_inner", "n_layer", "num_key_value_heads", "seq_length", "slow_but_exact"),
    *("tie_word_embeddings", "training_seqlen", "vocab_size"),
}
_BASE_LENGTH = 4_096  # where the first published code starts its steps
_BLOCK = "transformer.h.{layer}"
_KEY_VALUE = WeightName(f"{_BLOCK}.self_attention.key_value", rows="groups")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.word_embeddings"),
    "mixer_norm": WeightName(f"{_BLOCK}.input_layernorm"),
    "query": WeightName(f"{_BLOCK}.self_attention.query"),
    "key": _KEY_VALUE,
    "value": _KEY_VALUE,
    "output": WeightName(f"{_BLOCK}.self_attention.dense"),
    "mlp_norm": WeightName(f"{_BLOCK}.post_attention_layernorm"),
    "gate": WeightName(f"{_BLOCK}.mlp.gate_proj"),
    "up": WeightName(f"{_BLOCK}.mlp.up_proj"),
    "down": WeightName(f"{_BLOCK}.mlp.down_proj"),
    "final_norm": WeightName("transformer.ln_f"),
    "head": WeightName("lm_head"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown, such
            as `logn`, `embed_layernorm` or `apply_residual_connection_post_layernorm`.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "hidden_size")
    norm = Norm(epsilon=config.number("layer_norm_epsilon", 1e-5, above=0))
    mlp = Gated(read_hidden(config, "ffn_hidden_size"), has_down_bias=True)
    layer = LayerSpec(_attention(config, width), mlp, Serial(norm, norm))
    return ModelSpec(
        family="telechat",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=read_context(config, "seq_length", 8_192),
        embedding=Embedding(),
        layers=(layer,) * read_layers(config, "n_layer"),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


def _attention(config: Fields, width: int) -> Attention:
    heads = read_heads(config, "n_head")
    trained = read_context(config, "training_seqlen", 8_192)
    start = read_context(config, "base_seqlen", _BASE_LENGTH)
    scaling = RotaryScaling(
        "stepped_ntk",
        factor=trained / start,
        original_context=trained,
        has_length_factor=True,
    )
    with config.checked():
        return Attention(
            heads,
            read_heads(config, "num_key_value_heads", heads),
            width // heads,
            Rotary(width // heads, scaling=scaling),
            has_output_bias=True,
        )


family = families.register(
    Family(
        model_types=("telechat",),
        spec_from_config=spec_from_config,
        names=names,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
