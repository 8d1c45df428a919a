"""Block formats the native core has no layout for, as ones that it has, code by code.

A Q4_K superblock holds eight groups of 32 4-bit codes with a 6-bit scale and minimum each:
eight Q4_1 blocks, whose two factors are rounded to float16. A Q5_0 code of 5 bits fits in Q8_0's 8.
"""

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, group_scales

__all__ = ["to_core_format"]

_Bytes = NDArray[np.uint8]


def to_core_format(tensor: StoredTensor) -> StoredTensor:
    """Rewrite Q4_K as Q4_1 and Q5_0 as Q8_0 with the same codes; others stay as they are.

    Scales that float16 cannot hold keep the tensor as it is.
    """
    rewrite = {"Q4_K": ("Q4_1", _q4_1_from_q4_k), "Q5_0": ("Q8_0", _q8_0_from_q5_0)}
    if tensor.format not in rewrite:
        return tensor
    name, convert = rewrite[tensor.format]
    blocks = convert(tensor.data.reshape(-1, BLOCK_FORMATS[tensor.format].num_bytes))
    return tensor if blocks is None else StoredTensor(name, tensor.shape, blocks.reshape(-1))


def _q4_1_from_q4_k(blocks: _Bytes) -> _Bytes | None:
    factors = blocks[:, :4].copy().view("<f2").astype(np.float32)
    scales, minima = group_scales(blocks[:, 4:16])
    with np.errstate(over="ignore", invalid="ignore"):
        scale = (scales * factors[:, :1]).astype(np.float16)
        minimum = (-minima * factors[:, 1:]).astype(np.float16)
    if not (np.isfinite(scale).all() and np.isfinite(minimum).all()):
        return None
    # 32 bytes hold group 2i low and group 2i + 1 high; Q4_1 holds value j low and j + 16 high.
    quarters = blocks[:, 16:].reshape(-1, 4, 32)
    codes = np.stack([quarters & 15, quarters >> 4], axis=2).reshape(-1, 8, 32)
    packed = codes[..., :16] | codes[..., 16:] << 4
    parts = [scale[..., None].view(np.uint8), minimum[..., None].view(np.uint8), packed]
    return np.ascontiguousarray(np.concatenate(parts, axis=-1))


def _q8_0_from_q5_0(blocks: _Bytes) -> _Bytes:
    fifth = np.unpackbits(np.ascontiguousarray(blocks[:, 2:6]), axis=1, bitorder="little") << 4
    low = np.concatenate([blocks[:, 6:] & 15, blocks[:, 6:] >> 4], axis=1)
    codes = (low | fifth).astype(np.int8) - np.int8(16)
    return np.ascontiguousarray(np.concatenate([blocks[:, :2], codes.view(np.uint8)], axis=1))
