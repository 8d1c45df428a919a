"""Parquet files, through pyarrow: a block of rows at a time, numbered from 1."""

from collections.abc import Iterator
from typing import Any

from yearling.core.errors import DataError, UnsupportedError
from yearling.data.lines import NOT_UTF_8
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_BLOCK_ROWS = 256


def read(path: str) -> Iterator[Row | BadRow]:
    """Read a file block by block.

    Raises:
        DataError: the file cannot be opened, or is damaged.
        UnsupportedError: pyarrow is not installed.
    """
    try:
        from pyarrow import ArrowException  # type: ignore[import-untyped]
        from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UnsupportedError(
            f"{path}: Parquet needs pyarrow: pip install yearling[train]"
        ) from None
    number = 0
    try:
        with ParquetFile(path) as file:
            for block in file.iter_batches(batch_size=_BLOCK_ROWS):
                yield from _rows(path, number, block)
                number += block.num_rows
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet behind row {number}: {error}") from None


def _rows(path: str, before: int, block: Any) -> Iterator[Row | BadRow]:
    for index in range(block.num_rows):
        row = RowId(path, before + index + 1)
        try:
            values = {name: block.column(name)[index].as_py() for name in block.schema.names}
        except UnicodeDecodeError:
            yield BadRow(row, NOT_UTF_8)
        else:
            yield Row(row, values)


reader = readers.register(
    Reader(summary="Parquet, block by block", suffixes=(".parquet",), read=read), __name__
)
