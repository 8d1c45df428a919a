"""What every reader promises: rows, bad rows or a DataError, whatever the bytes."""

import gzip
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yearling.core.errors import DataError
from yearling.data.readers import readers
from yearling.data.rows import BadRow, Row

FORMATS = [
    pytest.param(name, suffix, id=suffix) for name, reader in readers for suffix in reader.suffixes
]
PIECES = st.sampled_from(
    [
        b'{"text": "a"}',
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b'"',
        b"\\",
        b"\n",
        b"\r",
        b"\xff",
        b"\0",
        b"PAR1",
    ]
)


@pytest.mark.parametrize("name", readers.names())
def test_reader_says_what_it_reads(name: str) -> None:
    assert readers.get(name).summary


def test_no_suffix_belongs_to_two_readers() -> None:
    suffixes = [suffix for _, reader in readers for suffix in reader.suffixes]
    assert len(suffixes) == len(set(suffixes))


@pytest.mark.parametrize(("name", "suffix"), FORMATS)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.binary(max_size=60) | st.lists(PIECES, max_size=12).map(b"".join))
def test_any_bytes_give_rows_bad_rows_or_a_data_error(
    tmp_path: Path, name: str, suffix: str, content: bytes
) -> None:
    file = tmp_path / f"a{suffix}"
    file.write_bytes(gzip.compress(content) if suffix.endswith(".gz") else content)
    found = []
    with suppress(DataError):
        found += readers.get(name).read(str(file))
    assert all(isinstance(row, Row | BadRow) for row in found)
    numbers = [row.id.number for row in found]
    assert numbers == sorted(set(numbers))
    assert all(row.id.source == str(file) for row in found)
    assert all(row.reason for row in found if isinstance(row, BadRow))


@pytest.mark.parametrize("name", [name for name in readers.names() if name != "hub"])
def test_missing_file_is_a_data_error(tmp_path: Path, name: str) -> None:
    file = tmp_path / f"none{readers.get(name).suffixes[0]}"
    with pytest.raises(DataError, match="cannot be read"):
        list(readers.get(name).read(str(file)))
