"""Writer of GGUF version 3: metadata, then tensors streamed one at a time.

Source: the GGUF specification, docs/gguf.md of the ggml project.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint.planned import PlannedTensor, new_file

__all__ = ["GGUF_TYPE_NUMBERS", "GgufValue", "write_gguf"]

GgufValue = bool | int | float | str | np.generic | Sequence[str] | NDArray[Any]
"""A metadata value. A plain integer becomes u32, or i32 below zero, or u64 above 2^32; a plain
float becomes f32; NumPy scalars and arrays keep their type; any other sequence holds strings."""

_ALIGNMENT = 32
_VERSION = 3
_STRING, _ARRAY = 8, 9
_VALUE_TYPES = {
    np.dtype("u1"): 0,
    np.dtype("i1"): 1,
    np.dtype("<u2"): 2,
    np.dtype("<i2"): 3,
    np.dtype("<u4"): 4,
    np.dtype("<i4"): 5,
    np.dtype("<f4"): 6,
    np.dtype("?"): 7,
    np.dtype("<u8"): 10,
    np.dtype("<i8"): 11,
    np.dtype("<f8"): 12,
}
GGUF_TYPE_NUMBERS = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q5_0": 6,
    "Q5_1": 7,
    "Q8_0": 8,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "BF16": 30,
}
"""The number that a tensor's description has for each format."""


def write_gguf(
    path: Path, metadata: Mapping[str, GgufValue], tensors: Sequence[PlannedTensor]
) -> None:
    """Write a file; it appears under its name only when it is whole and on disk.

    Raises:
        ValueError: a value has no GGUF type, a name appears twice, or a tensor is not the one
            that was planned.
    """
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ValueError(f"{path}: two tensors have the same name.")
    pairs = [_text(key) + _typed(key, value) for key, value in metadata.items()]
    start = b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(pairs))
    header = start + b"".join(pairs) + _descriptions(tensors)
    with new_file(path) as file:
        file.write(header + _padding(len(header)))
        for tensor in tensors:
            tensor.write(file)
            file.write(_padding(tensor.num_bytes))


def _descriptions(tensors: Sequence[PlannedTensor]) -> bytes:
    parts, offset = [], 0
    for tensor in tensors:
        axes = tensor.shape[::-1]  # fastest first
        layout = f"<I{len(axes)}QIQ"
        number = GGUF_TYPE_NUMBERS[tensor.format]
        parts.append(_text(tensor.name) + struct.pack(layout, len(axes), *axes, number, offset))
        offset += tensor.num_bytes + -tensor.num_bytes % _ALIGNMENT
    return b"".join(parts)


def _typed(key: str, value: GgufValue) -> bytes:
    """Encode a value behind the number of its type."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, np.ndarray):
        head = struct.pack("<IIQ", _ARRAY, _number_type(key, value), value.size)
        return head + np.ascontiguousarray(value).tobytes()
    if isinstance(value, Sequence):
        if not all(isinstance(item, str) for item in value):
            raise ValueError(f"{key}: a list must hold strings; numbers go into a NumPy array.")
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_text, value))
    scalar = value if isinstance(value, np.generic) else _scalar(key, value)
    return struct.pack("<I", _number_type(key, scalar)) + scalar.tobytes()


def _scalar(key: str, value: bool | int | float) -> np.generic:
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, float):
        return np.float32(value)
    if not -(2**31) <= value < 2**64:
        raise ValueError(f"{key}: {value!r:.80} has no GGUF type.")
    if value < 0:
        return np.int32(value)
    return np.uint32(value) if value < 2**32 else np.uint64(value)


def _number_type(key: str, value: np.generic | NDArray[Any]) -> int:
    number = _VALUE_TYPES.get(value.dtype)
    if number is None or value.ndim > 1:
        raise ValueError(f"{key}: {value.dtype} of {value.ndim} axes has no GGUF type.")
    return number


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _padding(num_bytes: int) -> bytes:
    return bytes(-num_bytes % _ALIGNMENT)
