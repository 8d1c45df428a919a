"""PanGu-α: GPT-2's layers, and a query layer on top that asks with the next token's position.

The last layer normalises the residual stream first, and projects its queries from a learned
embedding of the position in place of the hidden state.

Source: Zeng et al. 2021, arXiv:2104.12369, section 3.1; names as in the published PyTorch port.
"""

from collections.abc import Mapping
from dataclasses import replace

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS, activation_from_config
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
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

_LAYER = "transformer.h.{layer}."
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte"),
    "position_embedding": WeightName("transformer.wpe"),
    "query_positions": WeightName("transformer.wqe"),
    "stream_norm": WeightName("transformer.ln_f"),
    "mixer_norm": WeightName(f"{_LAYER}ln_1"),
    "query": WeightName(f"{_LAYER}attn.q_proj"),
    "key": WeightName(f"{_LAYER}attn.k_proj"),
    "value": WeightName(f"{_LAYER}attn.v_proj"),
    "output": WeightName(f"{_LAYER}attn.c_proj"),
    "mlp_norm": WeightName(f"{_LAYER}ln_2"),
    "up": WeightName(f"{_LAYER}mlp.c_fc"),
    "down": WeightName(f"{_LAYER}mlp.c_proj"),
    "head": WeightName("lm_head"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("activation_function", "attn_pdrop", "embd_pdrop", "gradient_checkpointing", "hidden_size"),
    *("initializer_range", "intermediate_size", "layer_norm_epsilon", "max_position_embeddings"),
    *("num_heads", "num_layers", "resid_pdrop", "scale_attn_weights", "summary_activation"),
    *("summary_first_dropout", "summary_proj_to_labels", "summary_type", "summary_use_proj"),
    *("tie_word_embeddings", "vocab_size"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `gpt_pangu`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_heads")
    context = read_context(config, "max_position_embeddings", 1_024)
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    scale = None if config.flag("scale_attn_weights", True) else 1.0
    with config.checked():
        attention = Attention(
            heads, heads, width // heads, has_qkv_bias=True, has_output_bias=True, scale=scale
        )
    mlp = Plain(
        read_hidden(config, "intermediate_size", 4 * width),
        activation_from_config(config, "activation_function", "gelu_new"),
    )
    layer = LayerSpec(attention, mlp, Serial(norm, norm))
    query_layer = replace(
        layer, mixer=replace(attention, query_positions=context), stream_norm=norm
    )
    return ModelSpec(
        family="pangu",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(positions=context),
        layers=(layer,) * (read_layers(config, "num_layers") - 1) + (query_layer,),
        final_norm=None,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


family = families.register(
    Family(
        model_types=("gpt_pangu",),
        spec_from_config=spec_from_config,
        names=names,
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
    __name__,
)
