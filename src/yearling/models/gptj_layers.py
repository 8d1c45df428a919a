"""GPT-J's layers, which CodeGen and MOSS share."""

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
    Parallel,
    Plain,
    Rotary,
)

__all__ = ["GPTJ_KEYS", "gptj_spec"]

GPTJ_KEYS = COMMON_KEYS | {
    *("activation_function", "attn_pdrop", "embd_pdrop", "gradient_checkpointing"),
    *("initializer_range", "layer_norm_epsilon", "n_embd", "n_head", "n_inner", "n_layer"),
    *("n_positions", "resid_pdrop", "rotary", "rotary_dim", "scale_attn_weights"),
    *("summary_activation", "summary_first_dropout", "summary_proj_to_labels", "summary_type"),
    *("summary_use_proj", "tie_word_embeddings", "vocab_size"),
}
"""Keys of config.json."""


def gptj_spec(family: str, config: Fields) -> ModelSpec:
    """Read the settings that GPT-J and CodeGen share.

    Raises:
        ModelFormatError: a value is missing or out of range.
    """
    width = read_width(config, "n_embd")
    heads = read_heads(config, "n_head")
    head_dim = width // heads
    dims = config.integer("rotary_dim", head_dim, minimum=2)
    with config.checked():
        attention = Attention(heads, heads, head_dim, Rotary(dims, layout="interleaved"))
    mlp = Plain(
        read_hidden(config, "n_inner", 4 * width),
        activation_from_config(config, "activation_function", "gelu_new"),
    )
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    num_layers = read_layers(config, "n_layer")
    is_tied = config.flag("tie_word_embeddings", False)
    return ModelSpec(
        family=family,
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=read_context(config, "n_positions", 2_048),
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Parallel(norm)),) * num_layers,
        final_norm=norm,
        head=Head(is_tied=is_tied, has_bias=True),
    )
