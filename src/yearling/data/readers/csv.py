"""Tables as text: comma-separated with quotes, tab-separated, semicolons as Europe's Excel writes.

The first line names the columns. A row's number is the line it begins in. After a row with a quote
that goes wrong, reading goes on with the next line, so that one stray quote costs one row.
"""

import csv
from collections import deque
from collections.abc import Iterator
from typing import IO

from yearling.core.errors import DataError
from yearling.data.lines import LONGEST_ROW_BYTES, NOT_UTF_8, open_bytes, read_lines
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_WRONG_FIELDS = "it does not have the fields of the header"
_WRONG_QUOTES = "its quotes are wrong"
# A stray quote at the start of a field swallows lines until the next one, or so many.
_MOST_LINES_OF_A_ROW = 10_000


def read(path: str) -> Iterator[Row | BadRow]:
    """Read a table row by row; blank lines are no rows.

    Raises:
        DataError: the file cannot be opened, is damaged, or its header is no list of names.
    """
    # The module's own limit is 131,072 characters a field, and is one for the whole process.
    csv.field_size_limit(LONGEST_ROW_BYTES)
    with open_bytes(path) as file:
        lines = _Lines(file)
        first = _peek(lines)
        delimiter = _delimiter(first)
        header = _header(path, lines, delimiter)
        while (fields := _next_fields(lines, delimiter)) is not None:
            if fields:
                yield _row(RowId(path, lines.first), fields, header)


def _row(row: RowId, fields: list[str] | str, header: list[str]) -> Row | BadRow:
    if isinstance(fields, str):
        return BadRow(row, _WRONG_QUOTES, fields)
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return BadRow(row, NOT_UTF_8, "save the file as UTF-8")
    if len(fields) != len(header):
        return BadRow(row, _WRONG_FIELDS, f"{len(fields)} fields where it has {len(header)}")
    return Row(row, dict(zip(header, fields, strict=True)))


def _header(path: str, lines: "_Lines", delimiter: str) -> list[str]:
    fields = _next_fields(lines, delimiter)
    if not fields or isinstance(fields, str):
        raise DataError(f"{path} has no header: its first line must name the columns.")
    names = [name.strip() for name in fields]
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{path}:1 must name each column once; it has {names}.")
    return names


def _peek(lines: "_Lines") -> str:
    lines.begin()
    first = next(lines, "")
    lines.put_back(0)
    return first


def _delimiter(header: str) -> str:
    """The first of comma, tab and semicolon that the header has; one column has none of them."""
    return next((one for one in ("\t", ",", ";") if one in header), ",")


def _next_fields(lines: "_Lines", delimiter: str) -> list[str] | str | None:
    """Give the fields of the next row, what is wrong with it, or None at the end."""
    lines.begin()
    try:
        return next(csv.reader(lines, delimiter=delimiter, strict=True), None)
    except csv.Error as error:
        lines.put_back(1)
        return str(error)


class _Lines:
    """The lines of a file, of which those of the current row can be read again.

    Attributes:
        first: Number of the current row's first line.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.first = 1
        self._lines = read_lines(file)
        self._waiting: deque[str] = deque()
        self._row: list[str] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self._row) == _MOST_LINES_OF_A_ROW:
            raise csv.Error(f"a quote is not closed within {_MOST_LINES_OF_A_ROW} lines")
        line = self._waiting.popleft() if self._waiting else self._decoded()
        self._row.append(line)
        return line

    def begin(self) -> None:
        """Begin a row with the next line."""
        self.first += len(self._row)
        self._row = []

    def put_back(self, kept: int) -> None:
        """Put all but the first lines of the row back, to be read again."""
        self._waiting.extendleft(reversed(self._row[kept:]))
        del self._row[kept:]

    def _decoded(self) -> str:
        line = next(self._lines)
        # Undecodable bytes pass as surrogates, so that only their own row is lost.
        return "\0" if line is None else line.decode("utf-8", "surrogateescape")


reader = readers.register(
    Reader(
        summary="a table with a header, separated by commas, tabs or semicolons",
        suffixes=(".csv", ".csv.gz", ".tsv", ".tsv.gz"),
        read=read,
    ),
    __name__,
)
