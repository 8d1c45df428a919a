"""Block formats: how stored bytes become numbers.

A row is a whole number of blocks; a block holds `values` numbers in `num_bytes` bytes. The
K formats are superblocks of 256 with scales for groups inside. All layouts are little-endian.

Source: the GGUF specification and the block structs of ggml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = ["BLOCK_FORMATS", "BlockFormat", "StoredTensor", "group_scales", "to_float32"]

_Bytes = NDArray[np.uint8]
_Floats = NDArray[np.float32]

_BLOCKS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as its file holds it.

    Attributes:
        format: `F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q4_K Q5_K Q6_K`.
        shape: Rows first, as Hugging Face: a linear layer is (outputs, inputs).
        data: Raw bytes, contiguous; quantised rows are whole blocks.
    """

    format: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class BlockFormat:
    """One way of storing numbers.

    Attributes:
        name: As GGUF spells it.
        values: Numbers in a block.
        num_bytes: Bytes of a block.
        decode: Turns blocks, (count, num_bytes), into numbers, (count, values).
    """

    name: str
    values: int
    num_bytes: int
    decode: Callable[[_Bytes], _Floats]

    def size(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor whose rows are whole blocks.

        Raises:
            ValueError: a row is not a whole number of blocks.

        >>> BLOCK_FORMATS["Q4_1"].size((2, 64))
        80
        """
        if shape and shape[-1] % self.values:
            raise ValueError(
                f"rows of {shape[-1]} values are not whole {self.name} blocks of {self.values}"
            )
        return prod(shape) // self.values * self.num_bytes


def to_float32(tensor: StoredTensor) -> NDArray[np.float32]:
    """Dequantise a tensor.

    >>> one = StoredTensor("F16", (2,), np.array([1, -2], np.float16).view(np.uint8))
    >>> to_float32(one).tolist()
    [1.0, -2.0]
    """
    block = BLOCK_FORMATS[tensor.format]
    blocks = tensor.data.reshape(-1, block.num_bytes)
    values = np.empty((len(blocks), block.values), np.float32)
    with np.errstate(all="ignore"):  # damaged scales may be infinite or NaN; so are the products
        for start in range(0, len(blocks), _BLOCKS_AT_ONCE):  # bounds the temporaries
            part = slice(start, start + _BLOCKS_AT_ONCE)
            values[part] = block.decode(blocks[part])
    return values.reshape(tensor.shape)


def _halves(blocks: _Bytes, offset: int) -> _Floats:
    """One float16 of each block, as a column of float32."""
    return blocks[:, offset : offset + 2].copy().view("<f2").astype(np.float32)


def _nibbles(packed: _Bytes) -> _Bytes:
    """(count, n) bytes -> (count, 2n): all low halves, then all high halves."""
    return np.concatenate([packed & 15, packed >> 4], axis=1)


def _fifth_bits(packed: _Bytes) -> _Bytes:
    """(count, 4) bytes -> (count, 32): bit i of the little-endian word, worth 16."""
    return np.unpackbits(np.ascontiguousarray(packed), axis=1, bitorder="little") * np.uint8(16)


def _decode_f32(blocks: _Bytes) -> _Floats:
    return np.ascontiguousarray(blocks).view("<f4")


def _decode_f16(blocks: _Bytes) -> _Floats:
    return np.ascontiguousarray(blocks).view("<f2").astype(np.float32)


def _decode_bf16(blocks: _Bytes) -> _Floats:
    return (np.ascontiguousarray(blocks).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _decode_q8_0(blocks: _Bytes) -> _Floats:
    return _halves(blocks, 0) * blocks[:, 2:].view(np.int8)


def _decode_q4_0(blocks: _Bytes) -> _Floats:
    return _halves(blocks, 0) * (_nibbles(blocks[:, 2:]).astype(np.int8) - 8)


def _decode_q4_1(blocks: _Bytes) -> _Floats:
    return _halves(blocks, 0) * _nibbles(blocks[:, 4:]) + _halves(blocks, 2)


def _decode_q5_0(blocks: _Bytes) -> _Floats:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return _halves(blocks, 0) * (codes.astype(np.int8) - 16)


def _decode_q5_1(blocks: _Bytes) -> _Floats:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return _halves(blocks, 0) * codes + _halves(blocks, 2)


def group_scales(packed: _Bytes) -> tuple[_Floats, _Floats]:
    """Read the 6-bit scales and minima of 8 groups from twelve bytes.

    Groups 0-3 keep theirs in the low six bits of bytes 0-3 and 4-7; groups 4-7 take four bits
    from bytes 8-11 and their upper two from the top of the first eight bytes.
    """
    low, middle, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([low & 63, (high & 15) | (low >> 6 << 4)], axis=1)
    minima = np.concatenate([middle & 63, (high >> 4) | (middle >> 6 << 4)], axis=1)
    return scales.astype(np.float32), minima.astype(np.float32)


def _scale_groups(blocks: _Bytes, codes: _Bytes) -> _Floats:
    """Apply the two factors and the group scales that Q4_K and Q5_K blocks begin with."""
    scales, minima = group_scales(blocks[:, 4:16])
    scales, minima = scales * _halves(blocks, 0), minima * _halves(blocks, 2)
    grouped = codes.reshape(-1, 8, 32)
    values: _Floats = scales[:, :, None] * grouped - minima[:, :, None]
    return values.reshape(-1, 256)


def _pairs_of_groups(packed: _Bytes) -> _Bytes:
    """128 bytes -> 256 nibbles: each 32 bytes hold one group low and the next one high."""
    quarters = packed.reshape(-1, 4, 1, 32)
    return np.concatenate([quarters & 15, quarters >> 4], axis=2).reshape(-1, 256)


def _decode_q4_k(blocks: _Bytes) -> _Floats:
    return _scale_groups(blocks, _pairs_of_groups(blocks[:, 16:]))


def _decode_q5_k(blocks: _Bytes) -> _Floats:
    # Bit g of high byte j belongs to value j of group g.
    group = np.arange(8, dtype=np.uint8)[:, None]
    high: _Bytes = (blocks[:, None, 16:48] >> group & np.uint8(1)) * np.uint8(16)
    return _scale_groups(blocks, _pairs_of_groups(blocks[:, 48:]) | high.reshape(-1, 256))


def _decode_q6_k(blocks: _Bytes) -> _Floats:
    low = blocks[:, :128].reshape(-1, 2, 1, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 2, 4, 32)
    shift = np.array([0, 2, 4, 6], np.uint8)[:, None]
    high = (blocks[:, 128:192].reshape(-1, 2, 1, 32) >> shift & 3) << 4
    codes = (low | high).astype(np.int8).reshape(-1, 16, 16) - 32
    scales = _halves(blocks, 208) * blocks[:, 192:208].view(np.int8)
    values: _Floats = scales[:, :, None] * codes
    return values.reshape(-1, 256)


BLOCK_FORMATS = MappingProxyType(
    {
        block.name: block
        for block in (
            BlockFormat("F32", 1, 4, _decode_f32),
            BlockFormat("F16", 1, 2, _decode_f16),
            BlockFormat("BF16", 1, 2, _decode_bf16),
            BlockFormat("Q8_0", 32, 34, _decode_q8_0),
            BlockFormat("Q4_0", 32, 18, _decode_q4_0),
            BlockFormat("Q4_1", 32, 20, _decode_q4_1),
            BlockFormat("Q5_0", 32, 22, _decode_q5_0),
            BlockFormat("Q5_1", 32, 24, _decode_q5_1),
            BlockFormat("Q4_K", 256, 144, _decode_q4_k),
            BlockFormat("Q5_K", 256, 176, _decode_q5_k),
            BlockFormat("Q6_K", 256, 210, _decode_q6_k),
        )
    }
)
"""Every format that is read, by the name GGUF gives it."""
