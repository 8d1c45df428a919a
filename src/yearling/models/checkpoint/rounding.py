"""Numbers to the nearest block: the rounding of each quantised format, in NumPy.

The formats of 32 take their scale from the extreme values alone, as llama.cpp's reference does,
so a block that it wrote comes back byte for byte. The K formats search for the scales with
the least weighted squared error, then round those to the superblock's six or eight bits.

Source: the reference quantisers of ggml; the K formats are Kawrakow's,
https://github.com/ggml-org/llama.cpp/pull/1684.
"""

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint.packing import (
    pack_q4_0,
    pack_q4_1,
    pack_q4_k,
    pack_q5_0,
    pack_q5_1,
    pack_q6_k,
    pack_q8_0,
)

__all__ = [
    "round_q4_0",
    "round_q4_1",
    "round_q4_k",
    "round_q5_0",
    "round_q5_1",
    "round_q6_k",
    "round_q8_0",
]

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

_Q4_K_STEPS = np.linspace(14, 16, 21, dtype=np.float32)  # levels that the range is cut into
_Q6_K_STEPS = np.linspace(31.1, 32.9, 19, dtype=np.float32)


def round_q8_0(rows: _Floats) -> _Bytes:
    """Round rows of 32 to Q8_0 blocks: the largest magnitude becomes ±127."""
    scales = np.abs(rows).max(axis=1) / np.float32(127)
    return pack_q8_0(scales, _half_away(rows * _inverse(scales)[:, None]))


def round_q4_0(rows: _Floats) -> _Bytes:
    """Round rows of 32 to Q4_0 blocks: the extreme value becomes -8."""
    return pack_q4_0(*_from_extreme(rows, 8))


def round_q5_0(rows: _Floats) -> _Bytes:
    """Round rows of 32 to Q5_0 blocks: the extreme value becomes -16."""
    return pack_q5_0(*_from_extreme(rows, 16))


def round_q4_1(rows: _Floats) -> _Bytes:
    """Round rows of 32 to Q4_1 blocks: the range becomes 0 to 15."""
    return pack_q4_1(*_from_range(rows, 15))


def round_q5_1(rows: _Floats) -> _Bytes:
    """Round rows of 32 to Q5_1 blocks: the range becomes 0 to 31."""
    return pack_q5_1(*_from_range(rows, 31))


def round_q4_k(rows: _Floats) -> _Bytes:
    """Round rows of 256 to Q4_K superblocks, by weights |x| + root mean square of the group."""
    groups = rows.reshape(-1, 8, 32)
    weights = np.sqrt(np.mean(groups**2, axis=2, keepdims=True)) + np.abs(groups)
    scales, minima = _fit_scales_and_minima(groups, weights)
    scale, minimum = _to_half(scales.max(axis=1) / 63), _to_half(minima.max(axis=1) / 63)
    group_scales = _rounded(scales * _inverse(scale)[:, None], 0, 63)
    group_minima = _rounded(minima * _inverse(minimum)[:, None], 0, 63)
    steps, offsets = group_scales * scale[:, None], group_minima * minimum[:, None]
    shifted = groups + offsets[:, :, None]
    codes = _rounded(shifted * _inverse(steps)[:, :, None], 0, 15)
    return pack_q4_k(scale, minimum, group_scales, group_minima, codes)


def round_q6_k(rows: _Floats) -> _Bytes:
    """Round rows of 256 to Q6_K superblocks, by weights x²."""
    groups = rows.reshape(-1, 16, 16)
    scales = _fit_scales(groups)
    extreme = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)[:, 0]
    scale = _to_half(extreme / np.float32(-128))
    group_scales = _rounded(scales * _inverse(scale)[:, None], -128, 127)
    steps = group_scales * scale[:, None]
    codes = _rounded(groups * _inverse(steps)[:, :, None], -32, 31)
    return pack_q6_k(scale, group_scales, codes)


def _from_extreme(rows: _Floats, lowest: int) -> tuple[_Floats, NDArray[np.int32]]:
    """Give scales and signed codes such that the value of largest magnitude has `-lowest`."""
    extreme = np.take_along_axis(rows, np.abs(rows).argmax(axis=1)[:, None], axis=1)[:, 0]
    scales = extreme / np.float32(-lowest)
    shifted = rows * _inverse(scales)[:, None] + np.float32(lowest + 0.5)
    return scales, np.minimum(shifted.astype(np.int32), 2 * lowest - 1) - lowest


def _from_range(rows: _Floats, levels: int) -> tuple[_Floats, _Floats, NDArray[np.int32]]:
    """Give scales, minima and codes from 0 such that the range of a row is `levels` steps."""
    minima = rows.min(axis=1)
    scales = (rows.max(axis=1) - minima) / np.float32(levels)
    shifted = (rows - minima[:, None]) * _inverse(scales)[:, None] + np.float32(0.5)
    return scales, minima, np.minimum(shifted.astype(np.int32), levels)


def _fit_scales_and_minima(groups: _Floats, weights: _Floats) -> tuple[_Floats, _Floats]:
    """Find the affine grid of 16 levels of each group with the least weighted squared error.

    Each trial cuts the range into a slightly different number of levels, rounds, and solves
    the least squares for that rounding; a minimum above 0 cannot be stored, so 0 bounds it.

    Returns:
        Scales and negated minima, (count, 8) each, none below 0.
    """
    low = np.minimum(groups.min(axis=2), 0)
    width = groups.max(axis=2) - low
    total, linear = weights.sum(axis=2), (weights * groups).sum(axis=2)
    least = np.full(low.shape, np.inf, np.float32)
    best_scales, best_minima = np.zeros_like(low), -low
    for levels in _Q4_K_STEPS:
        codes = np.rint((groups - low[:, :, None]) * (levels * _inverse(width))[:, :, None])
        codes = np.clip(codes, 0, 15, out=codes)
        weighted = weights * codes
        first, second = weighted.sum(axis=2), (weighted * codes).sum(axis=2)
        product = (weighted * groups).sum(axis=2)
        determinant = total * second - first * first
        scales = (total * product - linear * first) * _inverse(determinant)
        minima = (second * linear - first * product) * _inverse(determinant)
        is_flat = determinant <= np.float32(1e-6) * first * first  # one code for all
        scales = np.where((minima > 0) | is_flat, product * _inverse(second), scales)
        minima = np.where(is_flat, 0, np.minimum(minima, 0))
        misses = scales[:, :, None] * codes + minima[:, :, None] - groups
        errors = (weights * misses * misses).sum(axis=2)
        is_better = (errors < least) & (scales > 0)
        least = np.where(is_better, errors, least)
        best_scales = np.where(is_better, scales, best_scales)
        best_minima = np.where(is_better, -minima, best_minima)
    return best_scales, best_minima


def _fit_scales(groups: _Floats) -> _Floats:
    """Find the scale of each group of 16 with the least squared error weighted by x².

    Returns:
        Scales, (count, 16), signed so that the extreme value has a negative code.
    """
    at = np.abs(groups).argmax(axis=2)[:, :, None]
    extreme = np.take_along_axis(groups, at, axis=2)[:, :, 0]
    weights = groups * groups
    best_gain, best = np.zeros_like(extreme), np.zeros_like(extreme)
    for levels in _Q6_K_STEPS:
        codes = np.rint(groups * (-levels * _inverse(extreme))[:, :, None])
        codes = np.clip(codes, -32, 31, out=codes)
        weighted = weights * codes
        product, second = (weighted * groups).sum(axis=2), (weighted * codes).sum(axis=2)
        gain = product * product * _inverse(second)  # what this rounding explains of Σ w x²
        is_better = gain > best_gain
        best_gain = np.where(is_better, gain, best_gain)
        best = np.where(is_better, product * _inverse(second), best)
    return best


def _inverse(values: _Floats) -> _Floats:
    """Invert, with 0 for 0."""
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.float32(1) / values
    return np.where(np.isfinite(inverse), inverse, np.float32(0))


def _half_away(values: _Floats) -> NDArray[np.int32]:
    """Round halves away from zero, as C does."""
    return np.trunc(values + np.copysign(np.float32(0.5), values)).astype(np.int32)


def _to_half(values: _Floats) -> _Floats:
    return values.astype(np.float16).astype(np.float32)


def _rounded(values: _Floats, low: int, high: int) -> NDArray[np.int32]:
    return np.clip(np.rint(values), low, high).astype(np.int32)
