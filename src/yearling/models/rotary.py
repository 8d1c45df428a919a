"""Rotary frequencies and the cosine and sine tables that every interpreter reads.

Source: Su et al. 2021, arXiv:2104.09864; scalings as named in `spec.RotaryScaling`.
"""

import math

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import UnsupportedError
from yearling.models.spec import Rotary, RotaryScaling

__all__ = ["rotary_frequencies", "rotary_tables"]


def rotary_tables(rotary: Rotary, context: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Cosine and sine of every position's angles, each (context, dims/2).

    Raises:
        UnsupportedError: a scaling whose frequencies change with the sequence's length.
    """
    frequencies, factor = rotary_frequencies(rotary)
    angles = np.outer(np.arange(context, dtype=np.float32), frequencies)
    cosine = np.cos(angles) * np.float32(factor)
    sine = np.sin(angles) * np.float32(factor)
    return cosine.astype(np.float32), sine.astype(np.float32)


def rotary_frequencies(rotary: Rotary) -> tuple[NDArray[np.float32], float]:
    """Angle per position of each rotated pair (dims/2), and a factor on cosine and sine.

    >>> frequencies, factor = rotary_frequencies(Rotary(dims=4, base=100.0))
    >>> frequencies.tolist(), factor
    ([1.0, 0.10000000149011612], 1.0)
    """
    exponents = np.arange(0, rotary.dims, 2, dtype=np.float32) / np.float32(rotary.dims)
    plain = (1.0 / np.float32(rotary.base) ** exponents).astype(np.float32)
    scaling = rotary.scaling
    match scaling.kind if scaling else None:
        case None:
            return plain, 1.0
        case "linear":
            assert scaling is not None
            return plain / np.float32(scaling.factor), 1.0
        case "llama3":
            assert scaling is not None
            return _llama3(plain, scaling), 1.0
        case "yarn":
            assert scaling is not None
            return _yarn(plain, rotary, scaling)
        case kind:
            raise UnsupportedError(
                f"rotary scaling {kind!r} is not computed yet; none, linear, llama3 and yarn are."
            )


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
