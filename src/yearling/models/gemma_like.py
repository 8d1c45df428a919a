"""What the three generations of Gemma share: offset norms, a scaled embedding, its GGUF form.

The embedding is multiplied by sqrt(E). The published code rounds that factor to the precision it
computes in; ours is float32, as transformers' is with float32 weights and llama.cpp's always.

Source: Gemma Team 2024, arXiv:2403.08295.
"""

from collections.abc import Mapping
from dataclasses import replace
from math import sqrt
from types import MappingProxyType
from typing import TYPE_CHECKING

from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, LLAMA_NAMES, change_attention, llama_like_spec
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    norm_from_gguf,
    own_settings,
)
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    ModelSpec,
    Norm,
    Sandwich,
    Serial,
)
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = [
    "GEMMA_GGUF_KEYS",
    "GEMMA_KEYS",
    "GEMMA_NAMES",
    "SANDWICH_NAMES",
    "gemma_like_spec",
    "gemma_like_spec_from_gguf",
    "with_score_scale",
]

GEMMA_KEYS = LLAMA_KEYS | {
    "attention_bias",
    "attn_logit_softcapping",
    "cache_implementation",
    "final_logit_softcapping",
    "hidden_activation",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
}
"""Keys of config.json that the generations have between them."""

GEMMA_GGUF_KEYS = LLAMA_GGUF_KEYS | {
    "attention.sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "rope.freq_base_swa",
}
"""Keys under the architecture's name that the generations have between them."""


def _norm_name(hugging_face: str, gguf: str) -> WeightName:
    return WeightName(hugging_face, gguf, gguf_value="plus_one")


_BLOCK = "model.layers.{layer}"

GEMMA_NAMES: Mapping[Role, WeightName] = MappingProxyType(
    {
        **LLAMA_NAMES,
        "mixer_norm": _norm_name(f"{_BLOCK}.input_layernorm", "blk.{layer}.attn_norm"),
        "mlp_norm": _norm_name(f"{_BLOCK}.post_attention_layernorm", "blk.{layer}.ffn_norm"),
        "final_norm": _norm_name("model.norm", "output_norm"),
    }
)
"""Names of the first generation."""

SANDWICH_NAMES: Mapping[Role, WeightName] = MappingProxyType(
    {
        **GEMMA_NAMES,
        "mixer_post_norm": _norm_name(
            f"{_BLOCK}.post_attention_layernorm", "blk.{layer}.post_attention_norm"
        ),
        "mlp_norm": _norm_name(f"{_BLOCK}.pre_feedforward_layernorm", "blk.{layer}.ffn_norm"),
        "mlp_post_norm": _norm_name(
            f"{_BLOCK}.post_feedforward_layernorm", "blk.{layer}.post_ffw_norm"
        ),
    }
)
"""Names of the generations with a norm on either side of each branch."""


def gemma_like_spec(config: Fields, family: str, *, head_dim: int, is_sandwich: bool) -> ModelSpec:
    """Read what all generations have in config.json; attention caps and windows are left out.

    Args:
        head_dim: Size of a head in a file that does not say.
        is_sandwich: Whether norms stand on either side of each branch.
    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    key = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    # The first files say "gelu" and mean its tanh form, as their authors announced later.
    if config.text(key, "gelu_pytorch_tanh") not in ("gelu", "gelu_pytorch_tanh"):
        raise config.error(key, "is not known; every Gemma has gelu_pytorch_tanh")
    values = {"tie_word_embeddings": True, **config.values, "hidden_act": "gelu_pytorch_tanh"}
    norm = Norm(epsilon=config.number("rms_norm_eps", 1e-6, above=0), weight_offset=1.0)
    has_bias = config.flag("attention_bias", False)
    spec = llama_like_spec(
        Fields(values, config.label),
        family,
        head_dim=head_dim,
        norm=norm,
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
    )
    key = "final_logit_softcapping"
    cap = config.number(key, above=0) if key in config else None
    return _as_gemma(spec, norm, cap, is_sandwich)


def gemma_like_spec_from_gguf(file: "GgufFile", family: str, *, is_sandwich: bool) -> ModelSpec:
    """Read what all generations have in a GGUF file; attention caps and windows are left out.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(GEMMA_GGUF_KEYS)
    norm = replace(norm_from_gguf(file), weight_offset=1.0)
    spec = llama_like_spec_from_gguf(file, family, norm=norm)
    key = "final_logit_softcapping"
    cap = own.number(key, above=0) if key in own else None
    return _as_gemma(spec, norm, cap, is_sandwich)


def with_score_scale(spec: ModelSpec, label: str, divisor: float) -> ModelSpec:
    """Divide scores by the root of a number, which in most sizes is the head size after all."""

    def change(layer: int, mixer: Attention) -> Attention:
        is_usual = divisor == mixer.head_dim
        return replace(mixer, scale=None if is_usual else 1 / sqrt(divisor))

    return change_attention(spec, change, label)


def _as_gemma(spec: ModelSpec, norm: Norm, cap: float | None, is_sandwich: bool) -> ModelSpec:
    residual = Sandwich(norm, norm, norm, norm) if is_sandwich else Serial(norm, norm)
    mlp = spec.layers[0].mlp
    assert isinstance(mlp, Gated), "a LLaMA-like MLP is gated"
    mlp = replace(mlp, activation="gelu_tanh")
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    return replace(
        spec,
        embedding=Embedding(scale=sqrt(spec.width)),
        layers=tuple(replace(layer, mlp=mlp, residual=residual) for layer in spec.layers),
        head=replace(spec.head, soft_cap=cap),
    )
