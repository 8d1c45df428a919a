"""JSON lines: one object a line; blank lines are no rows."""

from collections.abc import Iterator

from yearling.data.json_values import row_of_json
from yearling.data.lines import open_bytes, read_lines
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_TOO_LONG = "the line is too long to be held in memory"


def read(path: str) -> Iterator[Row | BadRow]:
    """Read a file line by line; a row's number is its line.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    with open_bytes(path) as file:
        for number, line in enumerate(read_lines(file), start=1):
            row = RowId(path, number)
            if line is None:
                yield BadRow(row, _TOO_LONG)
            elif line.strip():
                yield row_of_json(row, line)


reader = readers.register(
    Reader(
        summary="JSON lines, one object a line",
        suffixes=(".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
        read=read,
    ),
    __name__,
)
