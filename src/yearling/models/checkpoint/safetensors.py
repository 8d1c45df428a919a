"""Reader of safetensors, single files and shards, with a bound on every length and offset.

A file is the length of a JSON header, the header, and tensor data without holes or overlaps.
Shards are listed by `model.safetensors.index.json`, whose file names may not leave the folder.

Source: the safetensors format description, https://github.com/huggingface/safetensors.
"""

import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import msgspec
from msgspec import Meta

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.source import SourceFile, TensorLocation
from yearling.models.json_file import read_json_object

__all__ = ["SafetensorsFiles", "read_safetensors_header"]

_MAX_HEADER_BYTES = 100_000_000  # the format's own limit
_MAX_COLONS = 1 << 19  # four for a tensor; bounds what decoding a header allocates
_MAX_INDEX_BYTES = 32 << 20
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors", re.ASCII)
_JSON_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"')
_TYPE_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
}

_Size = Annotated[int, Meta(ge=0, le=2**62)]


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of the header; offsets count from the end of the header."""

    dtype: str
    shape: Annotated[list[_Size], Meta(max_length=8)]
    data_offsets: tuple[_Size, _Size]


class SafetensorsFiles:
    """The weights of a Hugging Face folder, from one file or several shards.

    Attributes:
        tensors: Where each tensor lies inside its shard.
    """

    def __init__(self, folder: Path) -> None:
        """Open every shard and read its header.

        Raises:
            ModelFormatError: there are no safetensors, or they are malformed.
        """
        self.folder = folder
        self._sources: dict[str, SourceFile] = {}
        self._shard_of: dict[str, str] = {}
        tensors: dict[str, TensorLocation] = {}
        index = _read_index(folder)
        for shard in sorted(set(index.values())) if index else [_SINGLE]:
            source = self._sources[shard] = SourceFile(folder / shard)
            for name, place in read_safetensors_header(source).items():
                if name in tensors:
                    raise ModelFormatError(
                        f"{folder}: tensor {name} is in {self._shard_of[name]} and in {shard}."
                    )
                tensors[name], self._shard_of[name] = place, shard
        if index and index != self._shard_of:
            name = min(dict(index.items() ^ self._shard_of.items()))
            raise ModelFormatError(
                f"{folder / _INDEX}: says that tensor {name} is in {index.get(name)}, "
                f"but it is in {self._shard_of.get(name)}."
            )
        self.tensors: Mapping[str, TensorLocation] = MappingProxyType(tensors)

    def tensor(self, name: str) -> StoredTensor:
        """Read one tensor; safe to call from several threads.

        Raises:
            ModelFormatError: no such tensor, its type is not read, or its file has been cut.
        """
        if name not in self.tensors:
            raise ModelFormatError(f"{self.folder}: holds no tensor {name}.")
        return self._sources[self._shard_of[name]].read_tensor(name, self.tensors[name])

    def close(self) -> None:
        """Close all files; harmless to repeat."""
        for source in self._sources.values():
            source.close()


def read_safetensors_header(source: SourceFile) -> dict[str, TensorLocation]:
    """Read and check the header of one file.

    Raises:
        ModelFormatError: it is malformed.
    """
    size = int.from_bytes(source.read(0, 8, "the length of the header").tobytes(), "little")
    if size > min(_MAX_HEADER_BYTES, source.size - 8):
        raise ModelFormatError(
            f"{source.path}: header length at offset 0 is {size}, but the file has "
            f"{source.size} bytes and the limit is {_MAX_HEADER_BYTES}."
        )
    entries = _decode_header(source, source.read(8, size, "the header").tobytes())
    places = {name: _place(source, name, entry, 8 + size) for name, entry in entries.items()}
    _refuse_holes_and_overlaps(source, places, 8 + size)
    return places


def _decode_header(source: SourceFile, header: bytes) -> dict[str, _Entry]:
    if not header.startswith(b"{"):
        raise _error(source, "header must begin with '{'")
    if header.count(b":") > _MAX_COLONS:
        raise _error(source, f"header has more than {_MAX_COLONS} colons, too many tensors")
    try:
        values = msgspec.json.decode(header, type=dict[str, msgspec.Raw])
        msgspec.json.decode(values.pop("__metadata__", b"{}"), type=dict[str, str])
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in values.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _error(source, f"header: {error}") from error
    # A repeated name would silently win over the first; each name opens one object.
    num_objects = _JSON_STRING.sub(b"", header).count(b"{") - 1
    if num_objects != len(entries) + (b'"__metadata__"' in header):
        raise _error(source, "header names a tensor twice")
    return entries


def _place(source: SourceFile, name: str, entry: _Entry, base: int) -> TensorLocation:
    start, end = entry.data_offsets
    if entry.dtype not in _TYPE_BYTES:
        raise _error(source, f"tensor {name} is of unknown type {entry.dtype!r}")
    num_bytes = prod(entry.shape) * _TYPE_BYTES[entry.dtype]
    if end - start != num_bytes:
        raise _error(
            source, f"tensor {name} needs {num_bytes} bytes, but data_offsets are {start} to {end}"
        )
    return TensorLocation(entry.dtype, tuple(entry.shape), base + start, num_bytes)


def _refuse_holes_and_overlaps(
    source: SourceFile, places: Mapping[str, TensorLocation], end: int
) -> None:
    for name, place in sorted(places.items(), key=lambda item: (item[1].offset, item[1].num_bytes)):
        if place.offset != end:
            kind = "overlaps the one before" if place.offset < end else "leaves a hole before it"
            raise _error(source, f"tensor {name} {kind}", place.offset)
        end += place.num_bytes
    if end != source.size:
        raise _error(
            source,
            f"tensors end here, but the file has {source.size} bytes; it is damaged or was cut "
            "short, fetch it again",
            end,
        )


def _read_index(folder: Path) -> dict[str, str]:
    """Read which shard holds each tensor; empty when there is one file."""
    if (folder / _SINGLE).exists():
        return {}
    path = folder / _INDEX
    if not path.exists():
        raise ModelFormatError(
            f"{folder}: holds neither {_SINGLE} nor {_INDEX}. Other weight files, such as "
            "pytorch_model.bin, can run code when they are read, so they are not."
        )
    shards = read_json_object(path, _MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise ModelFormatError(f"{path}: weight_map is missing or empty.")
    for name, shard in shards.items():
        if not isinstance(shard, str) or not _SHARD_NAME.fullmatch(shard):
            raise ModelFormatError(
                f"{path}: weight_map puts {name} in {shard!r:.80}, which is no plain name of a "
                "safetensors file."
            )
    return shards


def _error(source: SourceFile, complaint: str, offset: int = 8) -> ModelFormatError:
    return ModelFormatError(f"{source.path}: {complaint}, at offset {offset}.")
