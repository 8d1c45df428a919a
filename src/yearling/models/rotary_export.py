"""Rotary settings to config.json and to GGUF: the inverse of `rotary_settings`."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.models.rotary import rotary_frequencies
from yearling.models.spec import Attention, ModelSpec, Rotary, RotaryScaling

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["gguf_divisors", "rotary_to_config", "rotary_to_gguf"]

_CONFIG_KINDS = {
    "linear": "linear",
    "dynamic_ntk": "dynamic",
    "yarn": "yarn",
    "llama3": "llama3",
    "power": "power",
    "truncated": "truncated",
}


def rotary_to_config(rotary: Rotary) -> dict[str, Any]:
    """Write `rope_theta` and `rope_scaling`, as every version of transformers reads them.

    Giraffe's two bases are written too, in the form that `rotary_settings` shows; transformers
    refuses them.

    Raises:
        ModelFormatError: config.json has no such scaling.

    >>> rotary_to_config(Rotary(64, 5e5, scaling=RotaryScaling("linear", 4.0)))
    {'rope_theta': 500000.0, 'rope_scaling': {'rope_type': 'linear', 'factor': 4.0}}
    """
    settings: dict[str, Any] = {"rope_theta": rotary.base}
    scaling = rotary.scaling
    if scaling is None:
        return settings
    if scaling.kind not in _CONFIG_KINDS:
        raise ModelFormatError(f"config.json has no place for rotary scaling {scaling.kind!r}.")
    written: dict[str, Any] = {"rope_type": _CONFIG_KINDS[scaling.kind]}
    if scaling.kind == "power":
        return settings | {"rope_scaling": written | {"exponent": scaling.exponent}}
    written["factor"] = scaling.factor
    if scaling.kind != "linear":
        written["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        written["low_freq_factor"] = scaling.low_frequency
        written["high_freq_factor"] = scaling.high_frequency
    if scaling.kind == "truncated":
        written["low_turns"] = scaling.low_frequency
        written["high_turns"] = scaling.high_frequency
    if scaling.kind == "yarn":
        written["beta_slow"] = scaling.low_frequency
        written["beta_fast"] = scaling.high_frequency
        if scaling.attention_factor is not None:
            written["attention_factor"] = scaling.attention_factor
    return settings | {"rope_scaling": written}


def rotary_to_gguf(rotary: Rotary, architecture: str) -> dict[str, Any]:
    """Write the keys below `ARCHITECTURE.rope.`; Llama 3's scaling is a tensor, see below.

    Raises:
        ModelFormatError: GGUF has no such scaling.

    >>> rotary_to_gguf(Rotary(64, 5e5), "llama")
    {'llama.rope.dimension_count': 64, 'llama.rope.freq_base': 500000.0}
    """
    prefix, scaling = f"{architecture}.rope.", rotary.scaling
    settings: dict[str, Any] = {"dimension_count": rotary.dims, "freq_base": rotary.base}
    if scaling is not None and scaling.kind != "llama3":
        _check_gguf(scaling)
        settings |= {"scaling.type": scaling.kind, "scaling.factor": scaling.factor}
        if scaling.kind == "yarn":
            settings["scaling.original_context_length"] = scaling.original_context
        if scaling.attention_factor is not None:
            settings["scaling.attn_factor"] = scaling.attention_factor
    return {prefix + key: value for key, value in settings.items()}


def gguf_divisors(spec: ModelSpec) -> NDArray[np.float32] | None:
    """Give what GGUF keeps as `rope_freqs.weight`: divisors of Llama 3's frequencies, or None."""
    for rotary in _rotaries(spec):
        if rotary.scaling is not None and rotary.scaling.kind == "llama3":
            plain, _ = rotary_frequencies(Rotary(rotary.dims, rotary.base))
            scaled, _ = rotary_frequencies(rotary)
            return (plain / scaled).astype(np.float32)
    return None


def _rotaries(spec: ModelSpec) -> "Iterator[Rotary]":
    for layer in spec.layers:
        if isinstance(layer.mixer, Attention) and isinstance(layer.mixer.positions, Rotary):
            yield layer.mixer.positions


def _check_gguf(scaling: RotaryScaling) -> None:
    betas = (scaling.low_frequency, scaling.high_frequency)
    if scaling.kind not in ("linear", "yarn") or (scaling.kind == "yarn" and betas != (1.0, 32.0)):
        raise ModelFormatError(f"GGUF has no place for rotary scaling {scaling}.")
