"""Reader of GGUF versions 2 and 3, with a bound on every length and offset.

A file is a fixed start, typed metadata pairs, tensor descriptions, padding, then tensor data.
Nothing in it is believed before it has been compared with the length of the file, so a
malformed one is a `ModelFormatError` that names field and offset. Long arrays (vocabularies,
merges) are only walked at opening and decoded when somebody asks.

Source: the GGUF specification, docs/gguf.md of the ggml project.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor
from yearling.models.checkpoint.source import SourceFile, TensorLocation

__all__ = ["GgufFile", "GgufMetadata"]

_MAX_HEADER_BYTES = 64 << 20  # a vocabulary of 262,144 with its merges takes 15 MB
_MAX_ENTRIES = 65_536  # of metadata and, separately, of tensors
_MAX_ARRAY_ITEMS = 4 << 20
_MAX_KEY_BYTES = 65_535
_MAX_NAME_BYTES = 1_024
_MAX_STRING_BYTES = 32 << 20  # some files carry a whole tokenizer.json
_MAX_ALIGNMENT = 1 << 20
_FIRST_READ_BYTES = 2 << 20

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: dict[int, np.dtype[Any]] = {
    0: np.dtype("u1"),
    1: np.dtype("i1"),
    2: np.dtype("<u2"),
    3: np.dtype("<i2"),
    4: np.dtype("<u4"),
    5: np.dtype("<i4"),
    6: np.dtype("<f4"),
    7: np.dtype("?"),
    10: np.dtype("<u8"),
    11: np.dtype("<i8"),
    12: np.dtype("<f8"),
}
_READ_TYPES = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    6: "Q5_0",
    7: "Q5_1",
    8: "Q8_0",
    12: "Q4_K",
    13: "Q5_K",
    14: "Q6_K",
    30: "BF16",
}
_FOREIGN_STARTS = {b"tjgg": "GGJT", b"fmgg": "GGMF", b"lmgg": "GGML", b"algg": "GGLA"}


@dataclass(frozen=True, slots=True)
class _Array:
    """An array in the header, still encoded."""

    item_type: int
    count: int
    start: int
    end: int


class GgufFile:
    """An open GGUF file.

    Attributes:
        path: The file.
        version: 2 or 3.
        metadata: Its key-value pairs.
        tensors: Where each tensor lies, in file order.
    """

    def __init__(self, path: Path) -> None:
        """Open a file and walk its header.

        Raises:
            ModelNotFoundError: nothing is there.
            ModelFormatError: it is malformed, or uses what this build does not read.
        """
        self.path = path
        self._source = SourceFile(path)
        header = _Header(self._source)
        self.version, num_tensors, num_pairs = _read_start(header)
        self.metadata = _read_metadata(header, num_pairs)
        entries = [_read_tensor_entry(header, index) for index in range(num_tensors)]
        self.tensors = _place_tensors(header, entries, _alignment(header, self.metadata))

    def tensor(self, name: str) -> StoredTensor:
        """Read one tensor; safe to call from several threads.

        Raises:
            ModelFormatError: no such tensor, or the file has been cut since it was opened.
        """
        if name not in self.tensors:
            raise ModelFormatError(f"{self.path}: holds no tensor {name}.")
        return self._source.read_tensor(name, self.tensors[name])

    def close(self) -> None:
        """Close the file; harmless to repeat."""
        self._source.close()


class GgufMetadata(Mapping[str, Any]):
    """Metadata pairs: scalars and strings as Python values, arrays as lists made on access.

    Keep an array that is used twice: every access decodes it again, so that a vocabulary does
    not stay in memory in two forms.
    """

    def __init__(self, path: Path, values: Mapping[str, Any], header: bytes) -> None:
        self._path = path
        self._values = values
        self._header = header

    def __getitem__(self, key: str) -> Any:
        value = self._values[key]
        if not isinstance(value, _Array):
            return value
        if value.item_type == _STRING:
            return self._strings(key, value)
        dtype = _SCALARS[value.item_type]
        return np.frombuffer(self._header, dtype, value.count, value.start).tolist()

    def __contains__(self, key: object) -> bool:
        return key in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def count(self, key: str) -> int | None:
        """Items of an array, without decoding it; None when the key holds none."""
        value = self._values.get(key)
        return value.count if isinstance(value, _Array) else None

    def _strings(self, key: str, array: _Array) -> list[str]:
        header, offset, strings = self._header, array.start, []
        try:
            for _ in range(array.count):
                (length,) = _U64.unpack_from(header, offset)
                offset += 8 + length
                strings.append(header[offset - length : offset].decode())
        except UnicodeDecodeError as error:
            raise ModelFormatError(
                f"{self._path}: {key}[{len(strings)}] at offset {offset - length} is not UTF-8."
            ) from error
        return strings


class _Header:
    """The walk over the front of a file, which is read as far as the walk has come."""

    def __init__(self, source: SourceFile) -> None:
        self.source = source
        self.data = b""
        self.offset = 0

    def error(self, complaint: str, offset: int | None = None) -> ModelFormatError:
        """Make the error for something found at an offset, by default the current one."""
        at = self.offset if offset is None else offset
        return ModelFormatError(f"{self.source.path}: {complaint}, at offset {at}.")

    def number(self, layout: struct.Struct, what: str) -> int:
        """Take one integer."""
        end = self._reach(layout.size, what)
        (value,) = layout.unpack_from(self.data, self.offset)
        self.offset = end
        return int(value)

    def count(self, what: str, item_bytes: int, maximum: int) -> int:
        """Take a 64-bit count of items that take at least `item_bytes` each."""
        start = self.offset
        count = self.number(_U64, what)
        room = (self.source.size - self.offset) // item_bytes
        if count > min(room, maximum):
            raise self.error(
                f"{what} is {count}, but the file has room for {room} and the limit is {maximum}",
                start,
            )
        return count

    def text(self, what: str, maximum: int) -> str:
        """Take a string of at most `maximum` bytes."""
        length = self.count(f"length of {what}", 1, maximum)
        end = self._reach(length, what)
        try:
            value = self.data[self.offset : end].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8") from error
        self.offset = end
        return value

    def scalar(self, dtype: np.dtype[Any], what: str) -> Any:
        """Take one number or truth value."""
        end = self._reach(dtype.itemsize, what)
        if dtype.kind == "b" and self.data[self.offset] > 1:
            raise self.error(f"{what} is {self.data[self.offset]}, neither true nor false")
        value = np.frombuffer(self.data, dtype, 1, self.offset)[0].item()
        self.offset = end
        return value

    def array(self, what: str) -> _Array:
        """Step over an array, checking that all of it is there."""
        item_type = self.number(_U32, f"item type of {what}")
        if item_type != _STRING and item_type not in _SCALARS:
            kind = "arrays, which are" if item_type == _ARRAY else f"type {item_type}, which is"
            raise self.error(f"{what} is an array of {kind} not read", self.offset - 4)
        is_text = item_type == _STRING
        item_bytes = 8 if is_text else _SCALARS[item_type].itemsize
        count = self.count(f"number of items of {what}", item_bytes, _MAX_ARRAY_ITEMS)
        start = self.offset
        if is_text:
            self._skip_strings(count, what)
        else:
            self.offset = self._reach(count * item_bytes, what)
        return _Array(item_type, count, start, self.offset)

    def _skip_strings(self, count: int, what: str) -> None:
        # The one hot loop of opening a file: 98,000 turns for SmolLM2, 15 ms.
        unpack, data, offset, ready = _U64.unpack_from, self.data, self.offset, len(self.data)
        for index in range(count):
            if offset + 8 > ready:
                self.offset = offset
                self._reach(8, f"length of {what}[{index}]")
                data, ready = self.data, len(self.data)
            (length,) = unpack(data, offset)
            if length > _MAX_STRING_BYTES:
                raise self.error(
                    f"length of {what}[{index}] is {length}, above {_MAX_STRING_BYTES}", offset
                )
            offset += 8 + length
        self.offset = offset
        self._reach(0, f"the end of {what}")

    def _reach(self, num_bytes: int, what: str) -> int:
        """Make sure that the next bytes are in memory; give the offset after them."""
        end = self.offset + num_bytes
        if end > len(self.data):
            if end > self.source.size:
                raise self.error(f"{what} runs to {end}, but the file ends at {self.source.size}")
            if end > _MAX_HEADER_BYTES:
                raise self.error(f"{what} runs to {end}, above the limit for headers")
            wanted = max(end, 2 * len(self.data), _FIRST_READ_BYTES)
            wanted = min(wanted, _MAX_HEADER_BYTES, self.source.size) - len(self.data)
            self.data += self.source.read(len(self.data), wanted, "the header").tobytes()
        return end


def _read_start(header: _Header) -> tuple[int, int, int]:
    """Take magic and version; give the version and the counts of tensors and pairs."""
    if header.source.size < 4:
        raise header.error(f"the file has {header.source.size} bytes, so it is no GGUF file")
    magic = header.number(_U32, "magic").to_bytes(4, "little")
    if magic != b"GGUF":
        older = _FOREIGN_STARTS.get(magic)
        kind = f"an old {older} file; convert it to GGUF" if older else "no GGUF file"
        raise header.error(f"starts with {magic!r}: {kind}", 0)
    version = header.number(_U32, "version")
    if version not in (2, 3):
        big_endian = version and version % 65_536 == 0
        kind = "it is big-endian" if big_endian else "versions 2 and 3 are read"
        raise header.error(f"version is {version}: {kind}", 4)
    num_tensors = header.count("number of tensors", 32, _MAX_ENTRIES)
    num_pairs = header.count("number of metadata pairs", 13, _MAX_ENTRIES)
    return version, num_tensors, num_pairs


def _read_metadata(header: _Header, num_pairs: int) -> GgufMetadata:
    values: dict[str, Any] = {}
    for index in range(num_pairs):
        start = header.offset
        key = header.text(f"key {index}", _MAX_KEY_BYTES)
        if key in values:
            raise header.error(f"metadata key {key!r} appears twice", start)
        values[key] = _read_value(header, key)
    return GgufMetadata(header.source.path, values, header.data)


def _read_value(header: _Header, key: str) -> Any:
    start = header.offset
    kind = header.number(_U32, f"type of {key}")
    if kind in _SCALARS:
        return header.scalar(_SCALARS[kind], key)
    if kind == _STRING:
        return header.text(key, _MAX_STRING_BYTES)
    if kind == _ARRAY:
        return header.array(key)
    raise header.error(f"{key} is of unknown type {kind}", start)


@dataclass(frozen=True, slots=True)
class _Entry:
    """A tensor's description as the header has it; `offset` counts from the data's start."""

    name: str
    format: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


def _read_tensor_entry(header: _Header, index: int) -> _Entry:
    start = header.offset
    name = header.text(f"name of tensor {index}", _MAX_NAME_BYTES)
    num_axes = header.number(_U32, f"number of axes of {name}")
    if not 1 <= num_axes <= 4:
        raise header.error(f"tensor {name} has {num_axes} axes instead of 1 to 4", start)
    axes = [header.number(_U64, f"axis {axis} of {name}") for axis in range(num_axes)]
    kind = header.number(_U32, f"type of {name}")
    offset = header.number(_U64, f"data offset of {name}")
    if kind not in _READ_TYPES:
        read = ", ".join(_READ_TYPES.values())
        raise header.error(f"tensor {name} has type {kind}, which is not read ({read} are)", start)
    # Values per byte never exceed two, so this also keeps every size below 2^64.
    if min(axes) < 1 or prod(axes) > 2 * header.source.size:
        raise header.error(f"tensor {name} of {axes} values does not fit the file", start)
    shape = tuple(reversed(axes))
    try:
        num_bytes = BLOCK_FORMATS[_READ_TYPES[kind]].size(shape)
    except ValueError as error:
        raise header.error(f"tensor {name}: {error}", start) from error
    return _Entry(name, _READ_TYPES[kind], shape, offset, num_bytes)


def _alignment(header: _Header, metadata: GgufMetadata) -> int:
    value = metadata.get("general.alignment", 32)
    if type(value) is not int or not 8 <= value <= _MAX_ALIGNMENT or value & (value - 1):
        raise header.error(
            f"general.alignment is {value!r}; it must be a power of two from 8 to {_MAX_ALIGNMENT}"
        )
    return value


def _place_tensors(
    header: _Header, entries: list[_Entry], alignment: int
) -> Mapping[str, TensorLocation]:
    """Check that tensors lie inside the file, aligned, apart and under distinct names."""
    base = -(-header.offset // alignment) * alignment
    size, places = header.source.size, dict[str, TensorLocation]()
    for entry in entries:
        offset = base + entry.offset
        if entry.name in places:
            raise header.error(f"tensor {entry.name} appears twice", offset)
        if entry.offset % alignment:
            raise header.error(f"tensor {entry.name} is not aligned to {alignment}", offset)
        if offset + entry.num_bytes > size:
            raise header.error(
                f"tensor {entry.name} of {entry.num_bytes} bytes ends beyond the file, which "
                f"has {size}: it is damaged or was cut short, fetch it again",
                offset,
            )
        places[entry.name] = TensorLocation(entry.format, entry.shape, offset, entry.num_bytes)
    _refuse_overlap(header, places)
    return MappingProxyType(places)


def _refuse_overlap(header: _Header, places: Mapping[str, TensorLocation]) -> None:
    end, before = 0, ""
    for name, place in sorted(places.items(), key=lambda item: item[1].offset):
        if place.offset < end:
            raise header.error(f"tensors {before} and {name} overlap", place.offset)
        end, before = place.offset + place.num_bytes, name
