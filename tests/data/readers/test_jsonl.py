import gzip
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from tests.data.readers.reading import places, read
from yearling.core.errors import DataError
from yearling.data.readers import jsonl
from yearling.data.rows import BadRow, Row

GOOD = b'{"text": "a"}\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not valid JSON"),
        (b"[1]", "no object"),
        (b'"text"', "no object"),
        (b'{"text": NaN}', "not valid JSON"),
        (b'{"text": "a", "text": "b"}', "not valid JSON"),
        (b'{"text": "\\ud800"}', "not valid JSON"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"a":' * 200_000, "not valid JSON"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "not valid JSON"),
    ],
)
def test_bad_line_is_named_and_costs_nothing_else(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    rows = read(file)
    assert places(rows) == ([1, 4], ["a.jsonl:3"])
    assert isinstance(rows[1], BadRow)
    assert reason in rows[1].reason
    assert rows[1].detail


def test_byte_order_mark_and_missing_last_end_are_fine(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + GOOD + b'{"text": "\\ud83d\\ude00"}')
    assert [row.values["text"] for row in read(file) if isinstance(row, Row)] == ["a", "😀"]


def test_gzip_is_unpacked_and_a_cut_one_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(GOOD * 1_000)
    file.write_bytes(whole)
    assert len(read(file)) == 1_000
    file.write_bytes(whole[:-12])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz is damaged"):
        read(file)


def test_line_too_long_to_hold_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yearling.data import lines

    monkeypatch.setattr(lines.read_lines, "__defaults__", (100,))
    file = tmp_path / "a.jsonl"
    file.write_bytes(GOOD + b'{"text": "' + b"x" * 5_000 + b'"}\n' + GOOD)
    assert places(read(file)) == ([1, 3], ["a.jsonl:2"])


def test_utf_16_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a"}', encoding="utf-16")
    with pytest.raises(DataError, match="UTF-16"):
        read(file)


def test_memory_stays_flat_over_200_000_rows(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"text": "some words of a row"}\n' * 200_000)
    rows = jsonl.read(str(file))
    # A row that is held is several blocks; tracemalloc would say the same in 40 seconds.
    blocks = [sys.getallocatedblocks() for _ in range(0, 200_000, 1_000) if skip(rows, 1_000)]
    assert next(rows, None) is None
    assert max(blocks) - blocks[0] < 1_000


def skip(rows: Iterator[object], count: int) -> bool:
    return sum(1 for _ in islice(rows, count)) == count
