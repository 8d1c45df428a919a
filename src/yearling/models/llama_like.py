"""The layout that LLaMA made usual, for every family that differs from it in a part or two.

Pre-norm decoder with RMS norms, rotary positions over whole heads, grouped-query attention and a
gated MLP. A family reads this spec and replaces what it does otherwise.

Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288 (grouped queries).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS, activation_from_config
from yearling.models.rotary_settings import rotary_from_config
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Serial,
)
from yearling.models.weights import Role, WeightName

__all__ = [
    "LLAMA_KEYS",
    "LLAMA_NAMES",
    "change_attention",
    "llama_like_names",
    "llama_like_spec",
    "windows_from_config",
]

LLAMA_KEYS = COMMON_KEYS | {
    "attention_dropout",  # training only
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "max_position_embeddings",
    "max_sequence_length",  # the same number in the first conversions
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",  # splits matrix products; their sum is the same
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}
"""Keys of config.json that `llama_like_spec` reads, or that change nothing."""

LLAMA_NAMES: Mapping[Role, WeightName] = MappingProxyType(
    {
        "embedding": WeightName("model.embed_tokens", "token_embd"),
        "mixer_norm": WeightName("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
        "query": WeightName("model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q"),
        "key": WeightName("model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k"),
        "value": WeightName("model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v"),
        "output": WeightName("model.layers.{layer}.self_attn.o_proj", "blk.{layer}.attn_output"),
        "mlp_norm": WeightName(
            "model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"
        ),
        "gate": WeightName("model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate"),
        "up": WeightName("model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up"),
        "down": WeightName("model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"),
        "final_norm": WeightName("model.norm", "output_norm"),
        "head": WeightName("lm_head", "output"),
    }
)
"""Names of LLaMA's weights."""


def llama_like_names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight as LLaMA does."""
    return LLAMA_NAMES


def llama_like_spec(
    config: Fields,
    family: str,
    *,
    head_dim: int | None = None,
    norm: Norm | None = None,
    has_qkv_bias: bool = False,
    has_output_bias: bool = False,
    has_mlp_bias: bool = False,
) -> ModelSpec:
    """Read config.json as transformers 4 or 5 writes it for LLaMA and its like.

    Args:
        head_dim: Size of a head where the file does not say; None divides the width by the heads.
        norm: Every norm; None is an RMS norm with the file's epsilon.
        has_qkv_bias: Bias on query, key and value projections.
        has_output_bias: Bias on the attention's output projection.
        has_mlp_bias: Bias on the MLP's projections.
    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    heads = read_heads(config, "num_attention_heads")
    width = read_width(config, "hidden_size")
    head_dim = read_width(config, "head_dim", head_dim or width // heads)
    context = read_context(config, "max_position_embeddings", 2_048)
    with config.checked():
        attention = Attention(
            heads,
            read_heads(config, "num_key_value_heads", heads),
            head_dim,
            rotary_from_config(config, head_dim, context),
            has_qkv_bias=has_qkv_bias,
            has_output_bias=has_output_bias,
        )
    mlp = Gated(
        read_hidden(config, "intermediate_size"),
        activation_from_config(config, "hidden_act", "silu"),
        has_mlp_bias,
    )
    norm = norm or Norm(epsilon=config.number("rms_norm_eps", 1e-6, above=0))
    layer = LayerSpec(attention, mlp, Serial(norm, norm))
    return ModelSpec(
        family=family,
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(layer,) * read_layers(config, "num_hidden_layers"),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", False)),
    )


def change_attention(
    spec: ModelSpec, change: Callable[[int, Attention], Attention], label: str
) -> ModelSpec:
    """Give every layer another attention.

    Args:
        change: Makes the attention of a layer from its number and what it has.
        label: The file that asks for it, for messages.
    Raises:
        ModelFormatError: an attention contradicts itself.
    """

    def changed(number: int, layer: LayerSpec) -> LayerSpec:
        assert isinstance(layer.mixer, Attention), "a LLaMA-like layer attends"
        return replace(layer, mixer=change(number, layer.mixer))

    with Fields({}, label).checked():
        return replace(spec, layers=tuple(map(changed, range(len(spec.layers)), spec.layers)))


def windows_from_config(config: Fields, num_layers: int, window: int | None) -> list[int | None]:
    """Read which layers see a window only, from `layer_types`; without it all do.

    >>> kinds = ["sliding_attention", "full_attention"]
    >>> windows_from_config(Fields({"layer_types": kinds}, "config.json"), 2, 512)
    [512, None]

    Raises:
        ModelFormatError: it is no list with one of two known kinds for each layer.
    """
    kinds = config.values.get("layer_types")
    if kinds is None:
        return [window] * num_layers
    known = {"sliding_attention": window, "full_attention": None}
    if not isinstance(kinds, list) or len(kinds) != num_layers:
        raise config.error("layer_types", f"must list the kind of each of {num_layers} layers")
    if unknown := [kind for kind in kinds if kind not in known]:
        raise config.error("layer_types", f"holds {unknown[0]!r}; known are {', '.join(known)}")
    return [known[kind] for kind in kinds]
