"""A JSON file: a list of objects, one object that holds such a list, or lines after all.

A list is read object by object, however large it is; the number of a row is its place in the list,
since one line may hold them all. Many files called `.json` hold one object a line: they are read
as `jsonl` reads them.
"""

import json
import re
from collections.abc import Iterator
from typing import IO, Any

from yearling.core.errors import DataError
from yearling.data.json_values import row_of_json, row_of_value
from yearling.data.lines import LONGEST_ROW_BYTES, open_bytes
from yearling.data.readers import Reader, jsonl, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_CHUNK_BYTES = 1 << 20
_OUTSIDE_STRINGS = re.compile(rb'["\[\]{},]')
_INSIDE_STRINGS = re.compile(rb'["\\]')
_SPACE = b" \t\r\n"


def read(path: str) -> Iterator[Row | BadRow]:
    """Read a file.

    Raises:
        DataError: the file cannot be opened, is damaged, or holds neither list nor objects.
    """
    with open_bytes(path) as file:
        start = file.tell()
        first = _first_character(file)
        file.seek(start)
        if first == b"[":
            yield from _read_list(path, file)
            return
        if first != b"{":
            raise DataError(f"{path} holds {_named(first)}; a JSON file must begin with [ or {{.")
        head = file.read(LONGEST_ROW_BYTES + 1)
    yield from _read_objects(path, head)


def _first_character(file: IO[bytes]) -> bytes:
    while chunk := file.read(_CHUNK_BYTES):
        if stripped := chunk.lstrip(_SPACE):
            return stripped[:1]
    return b""


def _named(first: bytes) -> str:
    return f"{first.decode('utf-8', 'replace')!r} first" if first else "nothing"


def _read_objects(path: str, head: bytes) -> Iterator[Row | BadRow]:
    """Read one object that holds the rows, or objects line by line."""
    try:
        whole: Any = json.loads(head) if len(head) <= LONGEST_ROW_BYTES else None
    except (ValueError, RecursionError):
        whole = None
    lists = [value for value in whole.values() if _is_rows(value)] if whole else []
    if whole and len(whole) == 1 and lists:
        for number, value in enumerate(lists[0], start=1):
            yield row_of_value(RowId(path, number), value)
    else:
        yield from jsonl.read(path) if whole is None else (row_of_json(RowId(path, 1), head),)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _read_list(path: str, file: IO[bytes]) -> Iterator[Row | BadRow]:
    line = 1
    for number, element in enumerate(_elements(path, file), start=1):
        begins = line + _leading_space(element).count(b"\n")
        line += element.count(b"\n")
        yield row_of_json(RowId(path, number), element, f"line {begins}")


def _leading_space(element: bytes) -> bytes:
    return element[: len(element) - len(element.lstrip(_SPACE))]


def _elements(path: str, file: IO[bytes]) -> Iterator[bytes]:
    """Give the text of each element of a list, malformed ones too, between its commas.

    Brackets are counted outside strings and nothing else is understood, so that a bad element
    ends where its brackets do.
    """
    cutter = _Cutter()
    while chunk := file.read(_CHUNK_BYTES):
        yield from cutter.cut(chunk)
        if cutter.is_done:
            _refuse_more(path, chunk[cutter.end :] + file.read(_CHUNK_BYTES))
            return
        if len(cutter.element) > LONGEST_ROW_BYTES:
            break
    raise DataError(
        f"{path}: the element behind the first {cutter.count} never ends: a bracket or a quote in "
        f"it is not closed.\n  It begins with {bytes(cutter.element[:60]).strip()!r}."
    )


def _refuse_more(path: str, rest: bytes) -> None:
    if rest.strip(_SPACE):
        raise DataError(f"{path} goes on behind its list, with {rest.strip(_SPACE)[:60]!r}.")


class _Cutter:
    """Cuts a list at its commas, chunk by chunk.

    Attributes:
        element: What has been read of the current element.
        count: Elements that are complete.
        is_done: Whether the list's own bracket has been closed.
        end: Where in the last chunk that was.
    """

    def __init__(self) -> None:
        self.element = bytearray()
        self.count = 0
        self.is_done = False
        self.end = 0
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def cut(self, chunk: bytes) -> Iterator[bytes]:
        """Read a chunk, and give the elements that end in it."""
        at = begin = 0
        if self._is_escaped:
            at, self._is_escaped = 1, False
        while match := (_INSIDE_STRINGS if self._is_in_string else _OUTSIDE_STRINGS).search(
            chunk, at
        ):
            at, symbol = match.end(), match[0]
            if symbol == b"\\":
                at, self._is_escaped = at + 1, at == len(chunk)
            elif symbol == b'"':
                self._is_in_string = not self._is_in_string
            elif self._closes_element(symbol):
                self.element += chunk[begin : at - 1]
                begin = at
                yield from self._take()
                if self.is_done:
                    self.end = at
                    return
            elif symbol in b"[{":
                begin = at if self._depth == 0 else begin
                self._depth += 1
            elif symbol in b"]}":
                self._depth -= 1
        self.element += chunk[begin:]

    def _closes_element(self, symbol: bytes) -> bool:
        self.is_done = self._depth == 1 and symbol in b"]}"
        return self.is_done or (self._depth == 1 and symbol == b",")

    def _take(self) -> Iterator[bytes]:
        element = bytes(self.element)
        self.element.clear()
        # `[]` has no element; what stands between two commas is one, even if it is nothing.
        if element.strip(_SPACE) or not self.is_done:
            self.count += 1
            yield element


reader = readers.register(
    Reader(
        summary="a list of JSON objects, one object with such a list, or objects line by line",
        suffixes=(".json", ".json.gz"),
        read=read,
    ),
    __name__,
)
