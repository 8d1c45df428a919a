"""InternLM 7B and 20B: LLaMA's layout, with biases on all four attention projections in 7B.

Source: InternLM Team 2023, the technical report of June; configuration of InternLM-20B.
"""

from dataclasses import replace
from typing import Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import (
    LLAMA_KEYS,
    change_attention,
    llama_like_names,
    llama_like_spec,
)
from yearling.models.llama_like_export import llama_like_gguf
from yearling.models.llama_like_gguf import interleaved_row_order
from yearling.models.spec import ModelSpec, Rotary, RotaryScaling

__all__ = ["family", "gguf_from_spec", "spec_from_config"]

_BASE = 10_000.0


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(LLAMA_KEYS | {"bias", "rotary"})
    has_bias = config.flag("bias", True)
    spec = llama_like_spec(config, "internlm", has_qkv_bias=has_bias, has_output_bias=has_bias)
    settings = config.inner("rotary")
    if settings is None:
        return spec
    scaling = _scaling(settings, spec.context)
    base = settings.number("base", _BASE, above=0)
    return change_attention(
        spec,
        lambda _, mixer: replace(mixer, positions=Rotary(mixer.head_dim, base, scaling=scaling)),
        config.label,
    )


def _scaling(settings: Fields, context: int) -> RotaryScaling | None:
    """Read InternLM's own `rotary` mapping, in which dynamic NTK has a factor of 1."""
    settings.refuse_unknown({"base", "scaling_factor", "type"})
    kind = settings.text("type", "origin")
    if kind not in ("origin", "dynamic"):
        raise settings.error("type", "is not known; known are origin and dynamic")
    if kind == "origin":
        return None
    factor = settings.number("scaling_factor", 1.0, above=0)
    return RotaryScaling("dynamic_ntk", factor, context)


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `llama`, which computes the same.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "llama")


family = families.register(
    Family(
        model_types=("internlm",),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq",),
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
