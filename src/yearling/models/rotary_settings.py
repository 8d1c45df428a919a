"""Rotary settings as config.json and GGUF write them, for every family that rotates.

transformers 4 writes `rope_theta` and `rope_scaling`; transformers 5 writes both into
`rope_parameters`. Giraffe's two bases (Pal et al. 2023, arXiv:2308.10882) are ours alone:

    {"rope_type": "power", "exponent": 0.1}
    {"rope_type": "truncated", "factor": 16.0, "low_turns": 0.125, "high_turns": 1.0,
     "original_max_position_embeddings": 2048}

where turns are over the trained context: frequencies from `high_turns` on are kept, those above
`low_turns` become `high_turns / factor`, the others 0.

GGUF has keys of its own, and keeps Llama 3's scaling not as settings but as a tensor of divisors.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import to_float32
from yearling.models.fields import Fields
from yearling.models.rotary import rotary_frequencies
from yearling.models.spec import Rotary, RotaryScaling

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["partial_rotary_from_config", "rotary_from_config", "rotary_from_gguf"]

_DEFAULT_BASE = 10_000.0
_FRACTION_KEY = "partial_rotary_factor"
_TYPE_KEYS = {"partial_rotary_factor", "rope_theta", "rope_type", "type"}
_SCALING_KEYS: dict[str, set[str]] = {
    "default": {"factor"},
    "linear": {"factor"},
    "dynamic": {"factor", "original_max_position_embeddings"},
    "yarn": {
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "factor",
        "original_max_position_embeddings",
        "truncate",
    },
    "llama3": {
        "factor",
        "high_freq_factor",
        "low_freq_factor",
        "original_max_position_embeddings",
    },
    "power": {"exponent"},
    "truncated": {"factor", "high_turns", "low_turns", "original_max_position_embeddings"},
}


def rotary_from_config(
    config: Fields,
    dims: int,
    context: int,
    *,
    base_key: str = "rope_theta",
    default_base: float = _DEFAULT_BASE,
) -> Rotary:
    """Read the rotary settings of a config.json.

    Args:
        dims: Rotated dimensions per head.
        context: Longest sequence in tokens, where a scaling does not name its own.
        base_key: Where older files keep the base.
        default_base: The base where a file names none.
    Raises:
        ModelFormatError: a value is missing or out of range, or the scaling is unknown.
    """
    settings = _rotary_fields(config)
    is_inside = "rope_theta" in settings
    base = (settings if is_inside else config).number(
        "rope_theta" if is_inside else base_key, default_base, above=0
    )
    return Rotary(dims, base, scaling=_scaling_from_config(settings, context))


def partial_rotary_from_config(
    config: Fields,
    head_dim: int,
    context: int,
    *,
    default_fraction: float,
    fraction_key: str = "partial_rotary_factor",
    base_key: str = "rope_theta",
) -> Rotary:
    """Read the rotary settings of a config.json that names the rotated share of each head.

    Args:
        head_dim: Dimensions of a head.
        context: As for `rotary_from_config`.
        default_fraction: The share where a file names none.
        fraction_key: Where older files keep it; newer ones have it in `rope_parameters`.
        base_key: Where older files keep the base.
    Raises:
        ModelFormatError: a value is missing or out of range, or leaves no pair to rotate.
    """
    settings = _rotary_fields(config)
    if "partial_rotary_factor" in settings:
        fraction, where = settings.number("partial_rotary_factor", above=0), settings
        key = "partial_rotary_factor"
    else:
        fraction, where = config.number(fraction_key, default_fraction, above=0), config
        key = fraction_key
    dims = int(head_dim * fraction)
    if not 2 <= dims <= head_dim or dims % 2:
        raise where.error(key, f"leaves {dims} of {head_dim} dimensions of a head to rotate")
    return rotary_from_config(config, dims, context, base_key=base_key)


def rotary_from_gguf(file: "GgufFile", metadata: Fields, dims: int) -> Rotary:
    """Read the rotary settings of a GGUF file.

    Raises:
        ModelFormatError: a value is out of range, or the scaling is unknown.
    """
    prefix = f"{metadata.text('general.architecture')}.rope."
    base = metadata.number(f"{prefix}freq_base", _DEFAULT_BASE, above=0)
    scaling = _scaling_from_gguf(metadata, prefix)
    if "rope_freqs.weight" in file.tensors:
        if scaling is not None:
            raise metadata.error(f"{prefix}scaling.type", "comes with rope_freqs.weight as well")
        divisors = to_float32(file.tensor("rope_freqs.weight"))
        scaling = _llama3_from_divisors(metadata.label, divisors, dims, base)
    return Rotary(dims, base, scaling=scaling)


def _rotary_fields(config: Fields) -> Fields:
    parameters, older = config.inner("rope_parameters"), config.inner("rope_scaling")
    if parameters is not None and older is not None and parameters.values != older.values:
        raise config.error("rope_scaling", "contradicts rope_parameters; keep one of the two")
    return parameters or older or Fields({}, config.label)


def _scaling_from_config(settings: Fields, context: int) -> RotaryScaling | None:
    key = "rope_type" if "rope_type" in settings else "type"
    kind = settings.text(key, "default")
    if kind not in _SCALING_KEYS:
        raise settings.error(key, f"is not known; known are {', '.join(_SCALING_KEYS)}")
    settings.refuse_unknown(_TYPE_KEYS | _SCALING_KEYS[kind])
    if kind == "default":
        return None
    if kind == "power":
        return RotaryScaling("power", exponent=settings.number("exponent", above=0))
    original = "original_max_position_embeddings"
    if kind == "truncated":
        return _truncated(settings, context)
    factor = settings.number("factor", above=0)
    if kind == "linear":
        return RotaryScaling("linear", factor)
    if kind == "dynamic":
        trained = settings.integer(original, context, minimum=1)
        return RotaryScaling("dynamic_ntk", factor, trained)
    if kind == "llama3":
        low = settings.number("low_freq_factor", above=0)
        high = settings.number("high_freq_factor", above=low)
        return RotaryScaling("llama3", factor, settings.integer(original, minimum=1), low, high)
    if not settings.flag("truncate", True):
        raise settings.error("truncate", "is not read; only true is")
    return RotaryScaling(
        "yarn",
        factor,
        settings.integer(original, context, minimum=1),
        low_frequency=settings.number("beta_slow", 1.0, above=0),
        high_frequency=settings.number("beta_fast", 32.0, above=0),
        attention_factor=_optional_number(settings, "attention_factor"),
    )


def _truncated(settings: Fields, context: int) -> RotaryScaling:
    """Read Giraffe's truncated basis; what is left out is as in the paper's code."""
    low = settings.number("low_turns", 1 / 8, above=0)
    return RotaryScaling(
        "truncated",
        settings.number("factor", 16.0, above=0),
        settings.integer("original_max_position_embeddings", context, minimum=1),
        low_frequency=low,
        high_frequency=settings.number("high_turns", 1.0, above=low),
    )


def _scaling_from_gguf(metadata: Fields, prefix: str) -> RotaryScaling | None:
    kind = metadata.text(f"{prefix}scaling.type", "none")
    if kind not in ("none", "linear", "yarn"):
        raise metadata.error(f"{prefix}scaling.type", "is not known; none, linear and yarn are")
    older = metadata.number(f"{prefix}scale_linear", 1.0, above=0)
    factor = metadata.number(f"{prefix}scaling.factor", older, above=0)
    if kind == "yarn":
        return RotaryScaling(
            "yarn",
            factor,
            metadata.integer(f"{prefix}scaling.original_context_length", minimum=1),
            low_frequency=1.0,
            high_frequency=32.0,
            attention_factor=_optional_number(metadata, f"{prefix}scaling.attn_factor"),
        )
    is_scaled = factor != 1.0 and (kind == "linear" or f"{prefix}scale_linear" in metadata)
    return RotaryScaling("linear", factor) if is_scaled else None


def _llama3_from_divisors(
    label: str, divisors: NDArray[np.float32], dims: int, base: float
) -> RotaryScaling:
    """Recognise the settings behind a tensor of divisors; only the factor ever varied."""
    if divisors.shape == (dims // 2,) and np.isfinite(divisors).all() and divisors.min() > 0:
        scaling = RotaryScaling("llama3", float(divisors.max()), 8_192, 1.0, 4.0)
        plain, _ = rotary_frequencies(Rotary(dims, base))
        scaled, _ = rotary_frequencies(Rotary(dims, base, scaling=scaling))
        if np.allclose(plain / divisors, scaled, rtol=1e-3):
            return scaling
    raise ModelFormatError(
        f"{label}: tensor rope_freqs.weight holds frequency divisors other than Llama 3's, "
        "which are not read."
    )


def _optional_number(settings: Fields, key: str) -> float | None:
    return settings.number(key, above=0) if key in settings else None
