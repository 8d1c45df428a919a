import sys
from types import SimpleNamespace
from typing import Any

import pytest

from tests.data.readers.reading import read
from yearling.core.errors import DataError, UnsupportedError
from yearling.data.rows import Row


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A hub with one data set that breaks behind its second row; gives what was asked of it."""
    calls: list[Any] = []

    def load_dataset(name: str, configuration: str | None, *, split: str, streaming: bool) -> Any:
        calls.append((name, configuration, split, streaming))
        yield {"text": "a"}
        yield {"text": "b"}
        if split == "broken":
            raise OSError("connection lost")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    return calls


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("hf:org/name", ("org/name", None, "train", True)),
        ("hf:org/name:test", ("org/name", None, "test", True)),
        ("hf:org/name/main:test", ("org/name", "main", "test", True)),
    ],
)
def test_name_says_configuration_and_split(asked: list[Any], name: str, wanted: Any) -> None:
    rows = [row for row in read(name) if isinstance(row, Row)]
    assert asked == [wanted]
    assert [str(row.id) for row in rows] == [f"{name}:1", f"{name}:2"]


def test_lost_connection_is_an_error_with_the_place(asked: list[Any]) -> None:
    with pytest.raises(DataError, match="behind row 2: OSError: connection lost"):
        read("hf:org/name:broken")


def test_name_of_another_form_is_an_error() -> None:
    with pytest.raises(DataError, match="hf:ORG/NAME"):
        read("hf:name")


def test_missing_datasets_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UnsupportedError, match=r"pip install yearling\[train\]"):
        read("hf:org/name")
