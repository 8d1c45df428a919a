"""Bytes of a model file, by `pread` only.

No memory map: a file cut short while it is mapped kills the process with SIGBUS, while a
short `pread` is an error that can be told. Nothing is allocated before the range asked for is
known to lie inside the file.
"""

import os
import stat
import weakref
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError, ModelNotFoundError
from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor

__all__ = ["SourceFile", "TensorLocation"]


@dataclass(frozen=True, slots=True)
class TensorLocation:
    """Where a tensor's bytes lie.

    Attributes:
        format: Name of the block format, or of a type that is known but not read, such as `I64`.
        shape: Rows first.
        offset: First byte, from the start of the file.
        num_bytes: Length; the header's walk has checked that it ends inside the file.
    """

    format: str
    shape: tuple[int, ...]
    offset: int
    num_bytes: int


class SourceFile:
    """A regular file held open for `pread`; safe to use from several threads.

    Attributes:
        path: The file, for messages.
        size: Its length in bytes when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            ModelNotFoundError: nothing is there.
            ModelFormatError: it is no regular file, or may not be read.
        """
        self.path = path
        try:
            # O_NONBLOCK: opening a named pipe must not wait for a writer.
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ModelNotFoundError(f"{path}: no such model file.") from error
        except (OSError, ValueError) as error:
            raise ModelFormatError(f"{path}: cannot be opened: {error}.") from error
        self.close = weakref.finalize(self, os.close, self._descriptor)
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            self.close()
            raise ModelFormatError(f"{path}: not a regular file.")
        self.size = status.st_size

    def read(self, offset: int, num_bytes: int, what: str) -> NDArray[np.uint8]:
        """Read a range into a fresh array.

        Args:
            what: What the range holds, for messages.
        Raises:
            ModelFormatError: the range ends beyond the file, or the file has been cut since.
        """
        if min(offset, num_bytes) < 0 or offset + num_bytes > self.size:
            raise ModelFormatError(
                f"{self.path}: {what} needs {num_bytes} bytes at offset {offset}, but the file "
                f"ends at {self.size}; it is damaged or was cut short: fetch it again."
            )
        buffer = np.empty(num_bytes, np.uint8)
        self._fill(buffer.data, offset, what)
        return buffer

    def read_tensor(self, name: str, location: TensorLocation) -> StoredTensor:
        """Read one tensor.

        Raises:
            ModelFormatError: its type is not read, or the file has been cut since.
        """
        if location.format not in BLOCK_FORMATS:
            raise ModelFormatError(
                f"{self.path}: tensor {name} is of type {location.format}, which is not read; "
                f"types read are {', '.join(BLOCK_FORMATS)}."
            )
        data = self.read(location.offset, location.num_bytes, f"tensor {name}")
        return StoredTensor(location.format, location.shape, data)

    def _fill(self, view: memoryview, offset: int, what: str) -> None:
        done = 0
        while done < len(view):
            try:
                # Linux reads at most 2 GiB less a page in one call.
                count = os.preadv(self._descriptor, [view[done : done + 2**30]], offset + done)
            except OSError as error:
                raise ModelFormatError(f"{self.path}: {what} cannot be read: {error}.") from error
            if count == 0:
                raise ModelFormatError(
                    f"{self.path}: short read of {what}: {done} of {len(view)} bytes at offset "
                    f"{offset}; the file was cut after it was opened: fetch it again."
                )
            done += count
