"""The grid that decoded values lie on: scale, minimum and codes found again, without loss.

Values that were decoded from a block are whole multiples of a step, plus an offset. Every
float16 is a whole multiple of 2^-24, so such values are integers in that unit and Euclid's
algorithm finds the step. Several blocks may decode to the same values (steps of 2d with codes
halved, say); any of them is right, and the one that ggml's own quantiser would have written,
whose largest code or group scale is the largest there is, is tried first.

A block that lies on no grid, or whose values were rounded when it was decoded, comes back as
bytes that decode to something else: callers compare.
"""

from dataclasses import dataclass
from itertools import product

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
    "find_q4_0",
    "find_q4_1",
    "find_q4_k",
    "find_q5_0",
    "find_q5_1",
    "find_q6_k",
    "find_q8_0",
]

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]
_Integers = NDArray[np.int64]
_Flags = NDArray[np.bool_]

_UNIT = 2.0**24  # of the smallest float16 in 1
_LARGEST = 2.0**50  # above any product of a float16 and the codes, below int64's end


def find_q8_0(rows: _Floats) -> _Bytes:
    """Find Q8_0 blocks that decode to these rows of 32."""
    return pack_q8_0(*_multiples(rows, -128, 127))


def find_q4_0(rows: _Floats) -> _Bytes:
    """Find Q4_0 blocks that decode to these rows of 32."""
    return pack_q4_0(*_multiples(rows, -8, 7))


def find_q5_0(rows: _Floats) -> _Bytes:
    """Find Q5_0 blocks that decode to these rows of 32."""
    return pack_q5_0(*_multiples(rows, -16, 15))


def find_q4_1(rows: _Floats) -> _Bytes:
    """Find Q4_1 blocks that decode to these rows of 32."""
    return pack_q4_1(*_shifted_multiples(rows, 15))


def find_q5_1(rows: _Floats) -> _Bytes:
    """Find Q5_1 blocks that decode to these rows of 32."""
    return pack_q5_1(*_shifted_multiples(rows, 31))


def find_q4_k(rows: _Floats) -> _Bytes:
    """Find Q4_K superblocks that decode to these rows of 256."""
    groups = _integers(rows).reshape(-1, 8, 32)
    low = groups.min(axis=2)
    steps, spans = _steps(groups - low[:, :, None])
    common = _common_factor(steps, spans, largest_scale=63, largest_code=15)
    steps = common.factor[:, None] * common.scales
    spans = np.where(steps > 0, (groups.max(axis=2) - low) // np.maximum(steps, 1), 0)
    minimum, group_minima, shifts = _common_minimum(steps, spans, low)
    shifted = groups - low[:, :, None]
    codes = shifted // np.maximum(steps, 1)[:, :, None] + shifts[:, :, None]
    return pack_q4_k(
        common.factor / _UNIT, minimum / _UNIT, common.scales, group_minima, _fit(codes, 0, 15)
    )


def find_q6_k(rows: _Floats) -> _Bytes:
    """Find Q6_K superblocks that decode to these rows of 256."""
    groups = _integers(rows).reshape(-1, 16, 16)
    at = np.abs(groups).argmax(axis=2)[:, :, None]
    is_positive = np.take_along_axis(groups, at, axis=2)[:, :, 0] > 0
    steps, spans = _steps(groups)
    common = _common_factor(steps, spans, largest_scale=128, largest_code=32)
    # The extreme value has a negative code, and the largest group scale is negative.
    signed = np.where(is_positive, -common.scales, common.scales)
    top = np.take_along_axis(signed, common.scales.argmax(axis=1)[:, None], axis=1)
    signed, factor = np.where(top > 0, -signed, signed), np.where(top > 0, -1, 1)[:, 0]
    factor = factor * common.factor
    signed = np.where(signed == 128, -128, signed)  # 128 does not fit; its codes turn their sign
    group_steps = factor[:, None] * signed
    codes = groups // np.where(group_steps == 0, 1, group_steps)[:, :, None]
    return pack_q6_k(factor / _UNIT, _fit(signed, -128, 127), _fit(codes, -32, 31))


def _integers(rows: _Floats) -> _Integers:
    """Give the values in units of 2^-24; zeros for a row that has others between."""
    scaled = rows.astype(np.float64) * _UNIT
    is_whole = ((scaled == np.rint(scaled)) & (np.abs(scaled) < _LARGEST)).all(axis=1)
    return np.where(is_whole[:, None], scaled, 0).astype(np.int64)


def _steps(values: _Integers) -> tuple[_Integers, _Integers]:
    """Give the greatest common divisor along the last axis, and the largest quotient."""
    sizes = np.abs(values)
    steps = np.gcd.reduce(sizes, axis=-1)
    return steps, sizes.max(axis=-1) // np.maximum(steps, 1)


def _multiples(rows: _Floats, low: int, high: int) -> tuple[NDArray[np.float64], _Integers]:
    """Find scales and codes from `low` to `high`."""
    values = _integers(rows)
    steps, spans = _steps(values)
    found, is_open = np.zeros_like(steps), (steps > 0) & (spans <= -low)
    for parts in range(1, -low + 1):
        if not is_open.any():
            break
        step = steps // parts
        fits = is_open & (steps % parts == 0) & (spans * parts <= -low) & _is_half(step)
        found[fits] = step[fits]
        is_open &= ~fits & (spans * (parts + 1) <= -low)
    codes = values // np.maximum(found, 1)[:, None]
    sign = np.where(codes.max(axis=1) > high, -1, 1)
    return sign * found / _UNIT, _fit(codes * sign[:, None], low, high)


def _shifted_multiples(
    rows: _Floats, levels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], _Integers]:
    """Find scales, minima and codes from 0 to `levels`."""
    values = _integers(rows)
    low = values.min(axis=1)
    steps, spans = _steps(values - low[:, None])
    scales, minima = np.zeros_like(steps), low.copy()
    is_open = (steps > 0) & (spans <= levels)
    for parts, shift in _grids(levels):
        if not is_open.any():
            break
        step = steps // parts
        minimum = low - step * shift
        fits = is_open & (steps % parts == 0) & (spans * parts + shift <= levels)
        fits[fits] = _is_half(step[fits]) & _is_half(minimum[fits])
        scales[fits], minima[fits] = step[fits], minimum[fits]
        is_open &= ~fits
    codes = (values - minima[:, None]) // np.maximum(scales, 1)[:, None]
    return scales / _UNIT, minima / _UNIT, _fit(codes, 0, levels)


def _grids(levels: int) -> list[tuple[int, int]]:
    """Ways to place codes: parts that the found step is cut into, and the lowest code."""
    ways = [(parts, shift) for parts in range(1, levels + 1) for shift in range(levels)]
    return sorted((way for way in ways if sum(way) <= levels), key=sum)


@dataclass(frozen=True, slots=True)
class _Common:
    """Steps of the groups of each superblock as whole multiples of one float16.

    Attributes:
        factor: The float16 in units, (count,); 0 where none was found.
        scales: The multiples, (count, groups).
    """

    factor: _Integers
    scales: _Integers


def _common_factor(
    steps: _Integers, spans: _Integers, *, largest_scale: int, largest_code: int
) -> _Common:
    """Find a float16 of which every group's step is a small multiple.

    A group whose codes have a common divisor shows a multiple of its step; it is cut again.
    """
    divisor = np.gcd.reduce(steps, axis=1)
    largest = steps.max(axis=1) // np.maximum(divisor, 1)
    factor, scales = np.zeros_like(divisor), np.zeros_like(steps)
    is_open = (divisor > 0) & (spans <= largest_code).all(axis=1)
    usual = largest_scale // np.maximum(largest, 1)  # makes the largest scale the largest there is
    for attempt in range(largest_scale + 1):
        rows = np.flatnonzero(is_open)
        if not len(rows):
            break
        parts = usual[rows] if attempt == 0 else np.full(len(rows), attempt)
        candidate = divisor[rows] // np.maximum(parts, 1)
        is_whole = (parts > 0) & (candidate * parts == divisor[rows]) & (candidate > 0)
        multiples, fits = _scales_of(
            steps[rows], spans[rows], np.maximum(candidate, 1), largest_scale, largest_code
        )
        fits &= is_whole & _is_half(candidate)
        factor[rows[fits]], scales[rows[fits]] = candidate[fits], multiples[fits]
        is_open[rows[fits]] = False
    return _Common(factor, scales)


def _scales_of(
    steps: _Integers,
    spans: _Integers,
    factor: _Integers,
    largest_scale: int,
    largest_code: int,
) -> tuple[_Integers, _Flags]:
    """Express each group's step, or a part of it, as a multiple of the row's factor."""
    scales = np.zeros_like(steps)
    is_found = np.zeros(steps.shape, np.bool_)
    is_found |= steps == 0
    for parts in range(1, largest_code + 1):
        whole = steps // (factor * parts)[:, None]
        fits = ~is_found & (whole * (factor * parts)[:, None] == steps)
        fits &= (whole <= largest_scale) & (spans * parts <= largest_code)
        scales[fits] = whole[fits]
        is_found |= fits
        if is_found.all():
            break
    return scales, np.all(is_found, axis=1)


def _common_minimum(
    steps: _Integers, spans: _Integers, low: _Integers
) -> tuple[_Integers, _Integers, _Integers]:
    """Find the factor on group minima, the group minima, and each group's lowest code.

    A group whose codes reach from 0 to 15 tells its minimum; of another only some candidates
    are known, one for each place its codes may have. The group with the fewest candidates is
    tried with every group minimum from 63 down, until all other groups have a fitting one.
    """
    minima, is_possible = _possible_minima(steps, spans, low)
    factor, found, shifts = np.zeros(len(low), np.int64), np.zeros_like(low), np.zeros_like(low)
    is_none = is_possible & (minima == 0)
    has_none = _has_one_each(is_none)
    shifts[has_none] = is_none[has_none].argmax(axis=2)
    is_open = _has_one_each(is_possible) & ~has_none
    num_choices = (is_possible & (minima > 0)).sum(axis=2)
    pivot = np.where(num_choices > 0, num_choices, 99).argmin(axis=1)
    for shift, largest in product(range(16), (63, *range(1, 63))):
        rows = np.flatnonzero(is_open)
        if not len(rows):
            break
        minimum = minima[rows, pivot[rows], shift]
        part = minimum // largest
        is_usable = is_possible[rows, pivot[rows], shift] & (part * largest == minimum)
        is_usable &= (part > 0) & _is_half(part)
        rows, part = rows[is_usable], part[is_usable]
        quotients = minima[rows] // np.maximum(part, 1)[:, None, None]
        fits = is_possible[rows] & (quotients <= 63)
        fits &= quotients * part[:, None, None] == minima[rows]
        is_found, choice = _has_one_each(fits), fits.argmax(axis=2)
        rows = rows[is_found]
        factor[rows] = part[is_found]
        shifts[rows] = choice[is_found]
        chosen = np.take_along_axis(quotients, choice[:, :, None], axis=2)[:, :, 0]
        found[rows] = chosen[is_found]
        is_open[rows] = False
    return factor, found, shifts


def _possible_minima(
    steps: _Integers, spans: _Integers, low: _Integers
) -> tuple[_Integers, _Flags]:
    """Give each group's minimum for every lowest code it may have, and which it may have."""
    shifts = np.arange(16)
    minima = steps[:, :, None] * shifts - low[:, :, None]
    is_possible: _Flags = (spans[:, :, None] + shifts <= 15) & (minima >= 0)
    is_possible &= (shifts == 0) | (steps > 0)[:, :, None]
    return minima, is_possible


def _has_one_each(fits: _Flags) -> _Flags:
    """Whether every group of a superblock has a choice that fits."""
    has_one: _Flags = np.logical_and.reduce(np.logical_or.reduce(fits, axis=2), axis=1)
    return has_one


def _is_half(values: _Integers) -> _Flags:
    """Whether integers are float16 values in units of 2^-24."""
    with np.errstate(over="ignore"):
        rounded = (values / _UNIT).astype(np.float16)
    is_same: _Flags = rounded.astype(np.float64) * _UNIT == values
    return is_same


def _fit(codes: _Integers, low: int, high: int) -> _Integers:
    """Keep codes of blocks that were not found inside their field."""
    return np.clip(codes, low, high)
