import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.readers.reading import places, read
from yearling.core.errors import DataError
from yearling.data.readers import json as json_reader
from yearling.data.rows import BadRow, Row

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), max_size=4),
    size=st.integers(1, 30),
)
@pytest.mark.parametrize("indent", [None, 1])
def test_list_is_read_whatever_the_chunks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: list[dict[str, object]],
    size: int,
    indent: int | None,
) -> None:
    monkeypatch.setattr(json_reader, "_CHUNK_BYTES", size)
    file = tmp_path / "a.json"
    try:
        file.write_text(json.dumps(rows, indent=indent, ensure_ascii=False), encoding="utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair, which jsonl's tests are about
        return
    assert [row.values for row in read(file) if isinstance(row, Row)] == rows


def test_bad_elements_are_named_with_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[\n{"text": "a"},\n{"text" "b"},\n7,\n,\n{"text": "c, ]"}\n]\n')
    rows = read(file)
    assert places(rows) == ([1, 5], ["a.json:2", "a.json:3", "a.json:4"])
    assert isinstance(rows[1], BadRow)
    assert rows[1].detail.startswith("line 3: ")


@pytest.mark.parametrize(
    "text", ['[{"text": "a"}, {"text": "b}]', '[{"text": "a"}, {"text": "b"', "["]
)
def test_unclosed_list_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match="never ends"):
        read(file)


def test_more_behind_the_list_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"text": "a"}] [{"text": "b"}]')
    with pytest.raises(DataError, match="goes on behind its list"):
        read(file)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('{"data": [{"text": "a"}, {"text": "b"}]}', [1, 2]),
        ('{\n "text": "a"\n}', [1]),
        ('{"text": "a"}\n{"text": "b"}\n', [1, 2]),
        ("[]", []),
    ],
)
def test_objects_and_lines_are_read(tmp_path: Path, text: str, numbers: list[int]) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    assert places(read(file)) == (numbers, [])


def test_bad_line_of_json_that_is_lines_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"text": "a"\n{"text": "b"}\n')
    assert places(read(file)) == ([2], ["a.json:1"])


@pytest.mark.parametrize("text", ["", "7", "text"])
def test_other_json_is_an_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"must begin with \[ or \{"):
        read(file)
