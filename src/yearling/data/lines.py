"""Lines of a file as bytes: plain or gzip, bounded, numbered from 1."""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from yearling.core.errors import DataError

__all__ = ["LONGEST_ROW_BYTES", "NOT_UTF_8", "open_bytes", "read_lines"]

LONGEST_ROW_BYTES = 64 << 20
NOT_UTF_8 = "it is not UTF-8"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16_MARKS = (b"\xff\xfe", b"\xfe\xff")


@contextmanager
def open_bytes(path: str) -> Iterator[IO[bytes]]:
    """Open a file, unpacking it when its name ends in `.gz`, behind its byte order mark.

    Raises:
        DataError: it cannot be opened or read, or its gzip stream is damaged: nobody knows how
            many rows were behind that place.
    """
    try:
        with gzip.open(path, "rb") if path.endswith(".gz") else Path(path).open("rb") as file:
            mark = file.read(3)
            if mark.startswith(_UTF_16_MARKS):
                raise DataError(f"{path} is written in UTF-16: save it as UTF-8.")
            file.seek(3 if mark == _BYTE_ORDER_MARK else 0)
            yield cast(IO[bytes], file)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path} is damaged: its gzip stream ends or breaks early ({error}).\n"
            "  Fetch or write the file again."
        ) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None


def read_lines(file: IO[bytes], longest_bytes: int = LONGEST_ROW_BYTES) -> Iterator[bytes | None]:
    """Give line after line with its end; None stands for one that is too long to be held."""
    while line := file.readline(longest_bytes + 1):
        if len(line) <= longest_bytes:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(longest_bytes)
        yield None
