"""Codes and scales of blocks to their bytes: the exact inverse of the decoders in `formats`.

Every function takes whole numbers that fit their fields and scales that are already float16
values; nothing is rounded here.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "pack_q4_0",
    "pack_q4_1",
    "pack_q4_k",
    "pack_q5_0",
    "pack_q5_1",
    "pack_q6_k",
    "pack_q8_0",
]

_Bytes = NDArray[np.uint8]
_Codes = NDArray[np.integer]
_Scales = NDArray[np.floating]


def pack_q8_0(scales: _Scales, codes: _Codes) -> _Bytes:
    """Pack scales, (count,), and codes from -128 to 127, (count, 32)."""
    return np.concatenate([_halves(scales), codes.astype(np.int8).view(np.uint8)], axis=1)


def pack_q4_0(scales: _Scales, codes: _Codes) -> _Bytes:
    """Pack scales, (count,), and codes from -8 to 7, (count, 32)."""
    return np.concatenate([_halves(scales), _nibbles(codes + 8)], axis=1)


def pack_q4_1(scales: _Scales, minima: _Scales, codes: _Codes) -> _Bytes:
    """Pack scales and minima, (count,) each, and codes from 0 to 15, (count, 32)."""
    return np.concatenate([_halves(scales), _halves(minima), _nibbles(codes)], axis=1)


def pack_q5_0(scales: _Scales, codes: _Codes) -> _Bytes:
    """Pack scales, (count,), and codes from -16 to 15, (count, 32)."""
    codes = codes + 16
    return np.concatenate([_halves(scales), _fifth_bits(codes), _nibbles(codes & 15)], axis=1)


def pack_q5_1(scales: _Scales, minima: _Scales, codes: _Codes) -> _Bytes:
    """Pack scales and minima, (count,) each, and codes from 0 to 31, (count, 32)."""
    parts = [_halves(scales), _halves(minima), _fifth_bits(codes), _nibbles(codes & 15)]
    return np.concatenate(parts, axis=1)


def pack_q4_k(
    scales: _Scales,
    minima: _Scales,
    group_scales: _Codes,
    group_minima: _Codes,
    codes: _Codes,
) -> _Bytes:
    """Pack superblocks of 8 groups of 32.

    Args:
        scales: Factor on the group scales, (count,).
        minima: Factor on the group minima, (count,).
        group_scales: From 0 to 63, (count, 8).
        group_minima: From 0 to 63, (count, 8).
        codes: From 0 to 15, (count, 8, 32).
    """
    steps, offsets = group_scales.astype(np.uint8), group_minima.astype(np.uint8)
    packed = [
        steps[:, :4] | (steps[:, 4:] >> 4 << 6),
        offsets[:, :4] | (offsets[:, 4:] >> 4 << 6),
        (steps[:, 4:] & 15) | (offsets[:, 4:] & 15) << 4,
    ]
    pairs = codes.astype(np.uint8).reshape(-1, 4, 2, 32)
    nibbles = (pairs[:, :, 0] | pairs[:, :, 1] << 4).reshape(-1, 128)
    return np.concatenate([_halves(scales), _halves(minima), *packed, nibbles], axis=1)


def pack_q6_k(scales: _Scales, group_scales: _Codes, codes: _Codes) -> _Bytes:
    """Pack superblocks of 16 groups of 16.

    Args:
        scales: Factor on the group scales, (count,).
        group_scales: From -128 to 127, (count, 16).
        codes: From -32 to 31, (count, 16, 16).
    """
    quarters = (codes + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    low = (quarters[:, :, :2] & 15) | (quarters[:, :, 2:] & 15) << 4
    shift = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = np.bitwise_or.reduce((quarters >> 4) << shift, axis=2)
    return np.concatenate(
        [
            low.reshape(-1, 128),
            high.reshape(-1, 64),
            group_scales.astype(np.int8).view(np.uint8),
            _halves(scales),
        ],
        axis=1,
    )


def _halves(values: _Scales) -> _Bytes:
    return values.astype("<f2").reshape(-1, 1).view(np.uint8)


def _nibbles(codes: _Codes) -> _Bytes:
    """(count, 32) codes below 16 -> (count, 16): the first half low, the second half high."""
    small = codes.astype(np.uint8)
    packed: _Bytes = small[:, :16] | small[:, 16:] << np.uint8(4)
    return packed


def _fifth_bits(codes: _Codes) -> _Bytes:
    return np.packbits(codes.astype(np.uint8) >> 4, axis=1, bitorder="little")
