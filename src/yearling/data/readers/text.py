"""Plain text: a file is one document; a very large one is cut at line ends into several."""

from collections.abc import Iterator

from yearling.data.lines import NOT_UTF_8, open_bytes, read_lines
from yearling.data.readers import Reader, readers
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["read", "reader"]

_DOCUMENT_BYTES = 1 << 20
_TOO_LONG = "a line is longer than a document may be"
_EMPTY = "the file is empty"


def read(path: str) -> Iterator[Row | BadRow]:
    """Read a file as documents of at most 1 MiB; a row's number is the line it begins in.

    Raises:
        DataError: the file cannot be opened, or is damaged.
    """
    first, lines, size, number = 1, list[bytes](), 0, 0
    with open_bytes(path) as file:
        for number, line in enumerate(read_lines(file, _DOCUMENT_BYTES), start=1):
            if line is None or size + len(line) > _DOCUMENT_BYTES:
                if lines:
                    yield _document(RowId(path, first), b"".join(lines))
                first, lines, size = number, [], 0
            if line is None:
                yield BadRow(RowId(path, number), _TOO_LONG, f"{_DOCUMENT_BYTES} bytes")
                first = number + 1
                continue
            lines.append(line)
            size += len(line)
    if lines or not number:
        yield _document(RowId(path, first), b"".join(lines))


def _document(row: RowId, content: bytes) -> Row | BadRow:
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = row.number + content.count(b"\n", 0, error.start)
        return BadRow(row, NOT_UTF_8, f"a byte in line {line}")
    text = text.replace("\r\n", "\n")
    return Row(row, {"text": text}) if text.strip() else BadRow(row, _EMPTY)


reader = readers.register(
    Reader(
        summary="plain text, a file a document",
        suffixes=(".txt", ".txt.gz"),
        read=read,
    ),
    __name__,
)
