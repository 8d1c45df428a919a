"""What a folder of plain numbers would forget about the quantised file it came from.

A folder holds decoded numbers. Encoding them again finds the same numbers, but not always the
same bytes: where several blocks decode alike, nothing says which one it was. So a conversion to
a folder leaves `quantised/blocks.gguf` in it, with the format of every weight and those blocks
that encoding does not find again. A block is used only where it still decodes to the numbers
beside it, so training or editing the folder makes it harmless, not wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.encode import ENCODED_FORMATS, from_float32
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.checkpoint.gguf_writer import GgufValue, write_gguf
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.weights import Weight

__all__ = ["KeptBlocks", "write_kept_blocks"]

_FILE = Path("quantised") / "blocks.gguf"
_FORMAT, _BLOCKS, _GENERAL = "format.", "blocks.", "general."
_PLAIN = ("F32", "F16", "BF16")
_MAX_SHARE = 8  # a list of places pays below one block in eight; above it all are kept


class KeptBlocks:
    """The kept formats and blocks of a folder.

    Attributes:
        metadata: `general.*` of the file that the folder came from.
    """

    def __init__(self, folder: Path) -> None:
        """Open what a conversion left in a folder; a folder without it keeps nothing.

        Raises:
            ModelFormatError: the file is malformed.
        """
        path = folder / _FILE
        self._file = GgufFile(path) if path.exists() else None
        found: Mapping[str, Any] = self._file.metadata if self._file is not None else {}
        self._formats = {
            key.removeprefix(_FORMAT): found[key] for key in found if key.startswith(_FORMAT)
        }
        if wrong := set(self._formats.values()) - set(BLOCK_FORMATS):
            raise ModelFormatError(f"{path}: formats {sorted(map(str, wrong))} are not known.")
        self.metadata = {key: found[key] for key in found if key.startswith(_GENERAL)}

    def format_of(self, weight: Weight) -> str | None:
        """Format of a weight before it was decoded, or None."""
        return self._formats.get(_key(weight))

    def restore(self, weight: Weight, encoded: StoredTensor) -> StoredTensor:
        """Put kept blocks back where they decode to the same numbers as those encoded."""
        key = _key(weight)
        if self._file is None or key not in self._file.tensors:
            return encoded
        kept = self._file.tensor(key)
        if kept.format != encoded.format:
            return encoded
        block = BLOCK_FORMATS[kept.format]
        blocks = encoded.data.reshape(-1, block.num_bytes).copy()
        old = kept.data.reshape(-1, block.num_bytes)
        places = self._places(key, len(old), len(blocks))
        is_same = (block.decode(old) == block.decode(blocks[places])).all(axis=1)
        blocks[places[is_same]] = old[is_same]
        return StoredTensor(encoded.format, encoded.shape, blocks.reshape(-1))

    def close(self) -> None:
        """Close the file; harmless to repeat."""
        if self._file is not None:
            self._file.close()

    def _places(self, key: str, count: int, limit: int) -> NDArray[np.int64]:
        assert self._file is not None, "restore has looked"
        listed = self._file.metadata.get(_BLOCKS + key)
        places = np.arange(count) if listed is None else np.array(listed, np.int64)
        if len(places) != count or (count and not 0 <= places.min() <= places.max() < limit):
            raise ModelFormatError(
                f"{self._file.path}: the places of {key} do not fit its {limit} blocks."
            )
        return places


def write_kept_blocks(
    folder: Path, general: Mapping[str, GgufValue], weights: Iterable[tuple[Weight, StoredTensor]]
) -> None:
    """Keep the formats of weights, and blocks that encoding does not find again.

    Args:
        folder: Where the decoded numbers are written to.
        general: `general.*` of the file they come from.
        weights: In the source's formats; read one at a time.
    """
    metadata: dict[str, GgufValue] = dict(general)
    tensors: list[PlannedTensor] = []
    for weight, stored in weights:
        key = _key(weight)
        metadata[_FORMAT + key] = stored.format
        if stored.format in _PLAIN:
            continue
        block = BLOCK_FORMATS[stored.format]
        blocks = stored.data.reshape(-1, block.num_bytes)
        places = _not_found_again(stored, blocks)
        if not len(places):
            continue
        if len(places) * _MAX_SHARE < len(blocks):
            blocks, metadata[_BLOCKS + key] = blocks[places], places.astype(np.uint32)
        tensors.append(_planned(key, stored.format, (len(blocks), block.values), blocks))
    (folder / _FILE).parent.mkdir()
    write_gguf(folder / _FILE, metadata, tensors)


def _not_found_again(stored: StoredTensor, blocks: NDArray[np.uint8]) -> NDArray[np.intp]:
    if stored.format not in ENCODED_FORMATS:
        return np.arange(len(blocks))
    again = from_float32(to_float32(stored), stored.format).data.reshape(blocks.shape)
    return np.flatnonzero((again != blocks).any(axis=1))


def _planned(key: str, name: str, shape: Sequence[int], blocks: NDArray[np.uint8]) -> PlannedTensor:
    stored = StoredTensor(name, tuple(shape), np.ascontiguousarray(blocks).reshape(-1))
    return PlannedTensor(key, name, stored.shape, lambda: stored)


def _key(weight: Weight) -> str:
    parts = (weight.role, weight.layer, weight.expert, weight.part)
    return ".".join(str(part) for part in parts if part is not None)
