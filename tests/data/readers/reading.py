"""Reading what a test has just written."""

from collections.abc import Callable
from pathlib import Path

from yearling.data.readers import readers
from yearling.data.rows import BadRow, Row

__all__ = ["places", "read"]

Write = Callable[[str, str | bytes], Path]


def read(path: Path | str) -> list[Row | BadRow]:
    """All that the reader of the file's suffix gives."""
    from yearling.data.sources import find_sources

    assert readers.names()
    return list(find_sources(str(path)).read())


def places(rows: list[Row | BadRow]) -> tuple[list[int], list[str]]:
    """Numbers of the good rows, and `file:line` of the bad ones."""
    good = [row.id.number for row in rows if isinstance(row, Row)]
    bad = [f"{Path(row.id.source).name}:{row.id.number}" for row in rows if isinstance(row, BadRow)]
    return good, bad
