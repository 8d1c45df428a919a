import csv
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.data.readers.reading import places, read
from yearling.core.errors import DataError
from yearling.data.rows import BadRow, Row

FIELDS = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",\n'))


def test_row_over_several_lines_has_the_number_of_its_first(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text('question,answer\n"1\n+ ""1""?",2\n\n3,4\n')
    rows = read(file)
    assert places(rows) == ([2, 5], [])
    assert isinstance(rows[0], Row)
    assert rows[0].values == {"question": '1\n+ "1"?', "answer": "2"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1,2,3", "fields of the header"),
        (b"1", "fields of the header"),
        (b'"1"1,2', "quotes"),
        (b'"1,2', "quotes"),
        (b"caf\xe9,2", "not UTF-8"),
    ],
)
def test_bad_row_is_named_and_costs_nothing_else(tmp_path: Path, line: bytes, reason: str) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes(b"q,a\n1,2\n" + line + b"\n3,4\n5,6\n")
    rows = read(file)
    assert places(rows) == ([2, 4, 5], ["a.csv:3"])
    (bad,) = (row for row in rows if isinstance(row, BadRow))
    assert reason in bad.reason


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=5))
def test_what_the_csv_module_writes_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    file = tmp_path / "a.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as stream:
        csv.writer(stream, quoting=csv.QUOTE_ALL).writerows([("q", "a"), *rows])
    assert [tuple(row.values.values()) for row in read(file) if isinstance(row, Row)] == rows


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ";"), ("a.csv", "\t")])
def test_delimiter_is_told_by_the_header(tmp_path: Path, name: str, delimiter: str) -> None:
    file = tmp_path / name
    file.write_text(f"q{delimiter}a\n1, 2{delimiter}3\n")
    (row,) = read(file)
    assert isinstance(row, Row)
    assert row.values == {"q": "1, 2", "a": "3"}


def test_field_of_a_megabyte_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("text\n" + "x" * (1 << 20) + "\n")
    assert places(read(file)) == ([2], [])


@pytest.mark.parametrize("header", ["", "q,q\n", "q,\n", '"q\n'])
def test_header_must_name_each_column_once(tmp_path: Path, header: str) -> None:
    file = tmp_path / "a.csv"
    file.write_text(header)
    with pytest.raises(DataError, match=r"a\.csv"):
        read(file)
