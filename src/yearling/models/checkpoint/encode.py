"""Numbers to stored tensors: the inverse of `to_float32`, for every format that is written.

Decoding and encoding again in the same format gives the same numbers: a block that does not
come back from plain rounding is searched for the grid that its values lie on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint import grid, rounding
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor

__all__ = ["ENCODED_FORMATS", "from_float32"]

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

_VALUES_AT_ONCE = 1 << 19  # 2 MB of values: the searches make a dozen arrays of that size


@dataclass(frozen=True, slots=True)
class _Encoder:
    """How rows of one block's values become blocks.

    Attributes:
        encode: To the nearest block.
        find: To a block that decodes to the same values, where there is one.
    """

    encode: Callable[[_Floats], _Bytes]
    find: Callable[[_Floats], _Bytes] | None = None


def from_float32(values: NDArray[np.float32], name: str) -> StoredTensor:
    """Encode numbers in a block format, each to a value near it.

    Args:
        values: Numbers, rows first; a row is a whole number of blocks.
        name: One of `ENCODED_FORMATS`.
    Raises:
        ValueError: the format is not written, rows split a block, or a value is not finite or
            beyond the format's range.

    >>> from_float32(np.array([1.0, -2.0], np.float32), "F16").data.tolist()
    [0, 60, 0, 192]
    """
    if name not in _ENCODERS:
        raise ValueError(f"format {name} is not written; {', '.join(ENCODED_FORMATS)} are.")
    block, encoder = BLOCK_FORMATS[name], _ENCODERS[name]
    data = np.empty(block.size(values.shape), np.uint8)
    blocks = data.reshape(-1, block.num_bytes)
    rows = np.ascontiguousarray(values, np.float32).reshape(-1, block.values)
    rows_at_once = _VALUES_AT_ONCE // block.values
    for start in range(0, len(rows), rows_at_once):
        part = slice(start, start + rows_at_once)
        if not np.isfinite(rows[part]).all():
            raise ValueError(f"a value is infinite or not a number, which {name} does not hold.")
        blocks[part] = _encode(rows[part], name, encoder)
    return StoredTensor(name, values.shape, data)


def _encode(rows: _Floats, name: str, encoder: _Encoder) -> _Bytes:
    decode = BLOCK_FORMATS[name].decode
    with np.errstate(over="ignore"):
        blocks = encoder.encode(rows)
    decoded = decode(blocks)
    if not np.isfinite(decoded).all():
        raise ValueError(f"the value {np.abs(rows).max():g} is beyond the range of {name}.")
    if encoder.find is None:
        return blocks
    inexact = np.flatnonzero((decoded != rows).any(axis=1))
    if len(inexact):
        found = encoder.find(rows[inexact])
        is_exact = (decode(found) == rows[inexact]).all(axis=1)
        blocks[inexact[is_exact]] = found[is_exact]
    return blocks


def _encode_f32(rows: _Floats) -> _Bytes:
    return rows.astype("<f4").view(np.uint8)


def _encode_f16(rows: _Floats) -> _Bytes:
    return rows.astype("<f2").view(np.uint8)


def _encode_bf16(rows: _Floats) -> _Bytes:
    """Round to nearest, halves to even; finite values only."""
    bits = rows.astype("<f4").view("<u4")
    rounded = (bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16
    return rounded.astype("<u2").view(np.uint8)


_ENCODERS = MappingProxyType(
    {
        "F32": _Encoder(_encode_f32),
        "F16": _Encoder(_encode_f16),
        "BF16": _Encoder(_encode_bf16),
        "Q8_0": _Encoder(rounding.round_q8_0, grid.find_q8_0),
        "Q4_0": _Encoder(rounding.round_q4_0, grid.find_q4_0),
        "Q4_1": _Encoder(rounding.round_q4_1, grid.find_q4_1),
        "Q5_0": _Encoder(rounding.round_q5_0, grid.find_q5_0),
        "Q5_1": _Encoder(rounding.round_q5_1, grid.find_q5_1),
        "Q4_K": _Encoder(rounding.round_q4_k, grid.find_q4_k),
        "Q6_K": _Encoder(rounding.round_q6_k, grid.find_q6_k),
    }
)

ENCODED_FORMATS = tuple(_ENCODERS)
"""Every format that is written, by the name GGUF gives it."""
