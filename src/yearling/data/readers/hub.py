"""Data sets of the Hugging Face hub, streamed: `hf:ORG/NAME`, `hf:ORG/NAME/CONFIGURATION:SPLIT`."""

import re
from collections.abc import Iterator

from yearling.core.errors import DataError, UnsupportedError
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_NAME = re.compile(
    r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<configuration>[\w.-]+))?(?::(?P<split>[\w.-]+))?"
)


def read(name: str) -> Iterator[Row | BadRow]:
    """Read a split row by row without downloading it first; the split is `train` by default.

    Raises:
        DataError: the name is not of that form, or the data set cannot be read.
        UnsupportedError: `datasets` is not installed.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise DataError(f"{name} is not of the form hf:ORG/NAME or hf:ORG/NAME:SPLIT.")
    try:
        from datasets import load_dataset  # type: ignore[import-untyped]
    except ModuleNotFoundError:
        raise UnsupportedError(
            f"{name}: the hub's data sets need `datasets`: pip install yearling[train]"
        ) from None
    number = 0
    try:
        rows = load_dataset(
            match["name"],
            match["configuration"],
            split=match["split"] or "train",
            streaming=True,
        )
        for number, values in enumerate(rows, start=1):
            yield Row(RowId(name, number), values)
    # The library lets errors of every protocol and file format through.
    except Exception as error:
        raise DataError(
            f"{name} cannot be read behind row {number}: {type(error).__name__}: {error}"
        ) from error


reader = readers.register(
    Reader(summary="data sets of the Hugging Face hub, streamed", suffixes=(), read=read),
    __name__,
)
