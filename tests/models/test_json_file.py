"""JSON files of models: what is read, and what is refused."""

from pathlib import Path

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.json_file import read_json_object


def _read(folder: Path, content: bytes, limit_bytes: int = 100) -> dict[str, object]:
    path = folder / "x.json"
    path.write_bytes(content)
    return read_json_object(path, limit_bytes)


def test_object_comes_back(tmp_path: Path) -> None:
    assert _read(tmp_path, '{"a": [1, {"b": "é"}]}'.encode()) == {"a": [1, {"b": "é"}]}


def test_limit_is_the_last_size_allowed(tmp_path: Path) -> None:
    assert _read(tmp_path, b"{}  ", limit_bytes=4) == {}
    with pytest.raises(ModelFormatError, match="has 5 bytes, above 4"):
        _read(tmp_path, b"{}   ", limit_bytes=4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not valid JSON"),
        (b"3", "must hold one JSON object"),
        (b'{"b": {"a": 1, "c": 2, "a": 3}}', "key 'a' appears twice"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        _read(tmp_path, content)
