from pathlib import Path

import pytest

from yearling.core.errors import DataError
from yearling.data.sources import find_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jsonl", "a.jsonl.gz", "README.md", ".hidden.csv"):
        (tmp_path / name).write_text("")
    return tmp_path


def names(path: Path | str) -> list[str]:
    return [Path(file).name for file, _ in find_sources(str(path)).files]


def test_folder_and_glob_give_files_in_order(folder: Path) -> None:
    assert names(folder) == ["a.jsonl.gz", "b.jsonl"]
    assert names(folder / "*.jsonl*") == ["a.jsonl.gz", "b.jsonl"]


def test_files_without_a_reader_are_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    names(folder)
    assert caplog.records[0].getMessage() == f"{folder}: no reader for README.md"


def test_number_behind_a_path_is_a_sample(folder: Path) -> None:
    assert find_sources(f"{folder}/b.jsonl#5").sample == 5
    assert find_sources(f"{folder}#5").sample == 5
    assert find_sources(str(folder)).sample is None
    (folder / "c#7.jsonl").write_text("")
    assert find_sources(f"{folder}/c#7.jsonl").sample is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("b.json", r"leads to no file\. Nearest in .*: b\.jsonl"),
        ("none/b.jsonl", "none does not exist"),
        ("README.md", r"README\.md has no reader: .*\.jsonl"),
        ("b.jsonl#0", "sample of 0 rows"),
        ("empty", "holds no file that a reader knows"),
    ],
)
def test_path_to_nothing_is_an_error(folder: Path, path: str, said: str) -> None:
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match=said):
        find_sources(str(folder / path))


def test_folder_of_several_formats_is_an_error(folder: Path) -> None:
    (folder / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"mixes formats: 2 jsonl, 1 text\.\n.*glob"):
        find_sources(str(folder))
