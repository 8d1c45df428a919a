"""The generated parts of docs/ say what the source says, and every doctest holds."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

from tests.architecture.source import PACKAGE, modules
from tools import write_docs


@pytest.mark.parametrize("name", write_docs.MAKERS)
def test_page_is_up_to_date(name: str) -> None:
    path = write_docs.REPOSITORY / "docs" / name
    assert path.read_text("utf-8") == write_docs.page_text(name), (
        "run .venv/bin/python tools/write_docs.py"
    )


def test_map_has_one_line_for_each_module() -> None:
    text = (write_docs.REPOSITORY / "docs" / "map.md").read_text("utf-8")
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("- `")]
    assert sorted(listed) == sorted(str(m.path.relative_to(PACKAGE)) for m in modules())


def test_check_names_what_is_out_of_date_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = tmp_path / "docs" / "map.md"
    page.parent.mkdir()
    before = f"{write_docs.BEGIN}\nold\n{write_docs.END}"
    page.write_text(before)
    monkeypatch.setattr(write_docs, "REPOSITORY", tmp_path)
    monkeypatch.setattr(write_docs, "MAKERS", {"map.md": lambda: "new"})
    monkeypatch.setattr(write_docs, "stale_charts", lambda: iter(()))
    with pytest.raises(SystemExit, match=r"out of date: docs/map\.md"):
        write_docs.main(["--check"])
    assert page.read_text() == before
    write_docs.main([])
    assert "new" in page.read_text()
    write_docs.main(["--check"])


def test_page_without_marks_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="must hold the lines"):
        write_docs.with_generated(page, "text")


@pytest.mark.parametrize(
    "name",
    [
        module.name
        for module in modules()
        if any(
            ">>> " in line and "doctest: +SKIP" not in line
            for line in module.path.read_text("utf-8").splitlines()
        )
    ],
)
def test_doctests_hold(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
