import sys
from pathlib import Path

import pytest

from tests.data.readers.reading import places, read
from yearling.core.errors import DataError, UnsupportedError
from yearling.data.examples import Conversation
from yearling.data.rows import Row
from yearling.data.schema import read_example

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


def test_nested_rows_with_nulls_are_read_as_written(tmp_path: Path) -> None:
    said = [
        {"role": "user", "content": "Hi", "loss": None},
        {"role": "assistant", "content": "Hello", "loss": False},
    ]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"messages": [said] * 1_000, "tools": [None] * 1_000}), file)
    rows = read(file)
    assert places(rows) == (list(range(1, 1_001)), [])
    assert isinstance(rows[0], Row)
    example = read_example(rows[0].values)
    assert isinstance(example, Conversation)
    assert [turn.has_loss for turn in example.turns] == [False, False]


def test_row_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    raw = pa.array([b"good", b"\xff", b"good"]).cast(pa.binary())
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": text}), file)
    assert places(read(file)) == ([1, 3], ["a.parquet:2"])


def test_damaged_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a\.parquet cannot be read as Parquet"):
        read(file)


def test_missing_pyarrow_is_an_error_that_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    file = tmp_path / "a.parquet"
    file.write_bytes(b"")
    with pytest.raises(UnsupportedError, match=r"pip install yearling\[train\]"):
        read(file)
