"""Rotary frequencies, which every interpreter reads.

Source: Su et al. 2021, arXiv:2104.09864; scalings as named in `spec.RotaryScaling`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from yearling.kernels.ops import Stretch
from yearling.models.spec import Rotary, RotaryScaling

__all__ = ["rotary_frequencies", "rotary_stretch"]


def rotary_stretch(rotary: Rotary) -> Stretch | None:
    """How the base grows with the length of the sequence; None when it does not."""
    scaling = rotary.scaling
    if scaling is None or scaling.kind not in ("dynamic_ntk", "stepped_ntk"):
        return None
    return Stretch(
        kind="dynamic_ntk" if scaling.kind == "dynamic_ntk" else "stepped_ntk",
        base=rotary.base,
        trained=scaling.original_context,
        factor=scaling.factor,
        has_length_factor=scaling.has_length_factor,
    )


def rotary_frequencies(rotary: Rotary) -> tuple[NDArray[np.float32], float]:
    """Angle per position of each rotated pair (dims/2), and a factor on cosine and sine.

    For a two-dimensional layout these are the dims/4 pairs of either half. A base that grows
    with the sequence, `rotary_stretch`, gives the frequencies of the trained length.

    >>> frequencies, factor = rotary_frequencies(Rotary(dims=4, base=100.0))
    >>> frequencies.tolist(), factor
    ([1.0, 0.10000000149011612], 1.0)
    """
    dims = rotary.dims // 2 if rotary.layout == "two_dimensional" else rotary.dims
    scaling = rotary.scaling
    if scaling is None:
        return _frequencies(dims, rotary.base), 1.0
    plain = _frequencies(dims, rotary.base)
    match scaling.kind:
        case "dynamic_ntk" | "stepped_ntk":
            return plain, 1.0
        case "linear":
            return plain / np.float32(scaling.factor), 1.0
        case "ntk":
            return _frequencies(dims, rotary.base * scaling.factor ** (dims / (dims - 2))), 1.0
        case "llama3":
            return _llama3(plain, scaling), 1.0
        case "yarn":
            return _yarn(plain, rotary, scaling)
        case "power":
            return _power(plain, scaling), 1.0
        case "truncated":
            return _truncated(plain, scaling), 1.0


def _frequencies(dims: int, base: float) -> NDArray[np.float32]:
    exponents = np.arange(0, dims, 2, dtype=np.float32) / np.float32(dims)
    return (1.0 / np.float32(base) ** exponents).astype(np.float32)


def _llama3(plain: NDArray[np.float32], scaling: RotaryScaling) -> NDArray[np.float32]:
    """Slow frequencies are stretched, fast ones kept, those between blended (Llama 3.1)."""
    turns = scaling.original_context * plain / (2 * math.pi)
    low, high = scaling.low_frequency, scaling.high_frequency
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    stretched = plain / np.float32(scaling.factor)
    return np.asarray(stretched * (1 - kept) + plain * kept, np.float32)


def _yarn(
    plain: NDArray[np.float32], rotary: Rotary, scaling: RotaryScaling
) -> tuple[NDArray[np.float32], float]:
    """Interpolate by wavelength, and sharpen attention (Peng et al. 2023, arXiv:2309.00071)."""

    def pair_of(turns: float) -> float:
        per_turn = scaling.original_context / (turns * 2 * math.pi)
        return rotary.dims * math.log(per_turn) / (2 * math.log(rotary.base))

    first = max(math.floor(pair_of(scaling.high_frequency)), 0)
    last = min(math.ceil(pair_of(scaling.low_frequency)), rotary.dims - 1)
    pairs = np.arange(rotary.dims // 2, dtype=np.float32)
    kept = 1 - np.clip((pairs - first) / max(last - first, 0.001), 0.0, 1.0)
    stretched = plain / np.float32(scaling.factor)
    factor = scaling.attention_factor
    if factor is None:
        factor = 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0
    return (stretched * (1 - kept) + plain * kept).astype(np.float32), factor


def _power(plain: NDArray[np.float32], scaling: RotaryScaling) -> NDArray[np.float32]:
    """Slow the slow frequencies most: θ_j · (1 - 2j/d)^exponent (Pal et al. 2023, 2308.10882)."""
    shares = 1 - np.arange(len(plain), dtype=np.float64) / len(plain)
    return (plain * shares**scaling.exponent).astype(np.float32)


def _truncated(plain: NDArray[np.float32], scaling: RotaryScaling) -> NDArray[np.float32]:
    """Keep fast frequencies, make those between one constant, and stop slow ones (ibid.).

    The slow ones never complete a turn in training, so their angles at longer distances are new.
    """
    turn = 2 * math.pi / scaling.original_context
    low, high = scaling.low_frequency * turn, scaling.high_frequency * turn
    between = np.where(plain > np.float32(low), np.float32(high / scaling.factor), np.float32(0))
    return np.where(plain >= np.float32(high), plain, between).astype(np.float32)
