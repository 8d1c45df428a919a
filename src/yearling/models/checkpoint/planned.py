"""Tensors that are going to be written: known by name, format and shape, read one at a time."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor

__all__ = ["PlannedTensor", "new_file", "sync_folder"]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """One tensor of a file to be written.

    Attributes:
        name: As the file will have it.
        format: A block format; safetensors take `F32 F16 BF16` only.
        shape: Rows first.
        read: Gives the tensor when its turn has come; called once.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    read: Callable[[], StoredTensor]

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        return BLOCK_FORMATS[self.format].size(self.shape)

    def write(self, file: BinaryIO) -> None:
        """Read the tensor and append its data to a file.

        Raises:
            ValueError: what was read is not what was planned.
        """
        tensor = self.read()
        if (tensor.format, tensor.shape) != (self.format, self.shape):
            raise ValueError(
                f"tensor {self.name} was planned as {self.format} {self.shape}, but is "
                f"{tensor.format} {tensor.shape}."
            )
        file.write(tensor.data.data)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file beside its place and move it there once it is whole and on disk.

    If the block raises, the part is removed and what was at `path` stays.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        sync_folder(path.parent)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
