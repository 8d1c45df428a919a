from pathlib import Path

from tests.data.readers.reading import places, read
from yearling.data.rows import BadRow, Row


def test_folder_of_texts_is_a_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.txt").write_text("first\r\nfile\n", newline="")
    (tmp_path / "b" / "c.txt").write_text("second")
    rows = read(tmp_path)
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == [
        "first\nfile\n",
        "second",
    ]


def test_large_file_is_cut_at_line_ends_with_nothing_lost(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    line = "x" * 999 + "\n"
    file.write_text(line * 2_500)
    rows = [row for row in read(file) if isinstance(row, Row)]
    assert [row.id.number for row in rows] == [1, 1049, 2097]
    assert "".join(row.values["text"] for row in rows) == line * 2_500


def test_bad_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    (tmp_path / "b.txt").write_bytes(b"fine\n\xff\n")
    (tmp_path / "c.txt").write_bytes(b"fine\n" + b"x" * (1 << 21) + b"\nfine again\n")
    rows = read(tmp_path)
    assert places(rows) == ([1, 3], ["a.txt:1", "b.txt:1", "c.txt:2"])
    assert "line 2" in next(row.detail for row in rows[1:2] if isinstance(row, BadRow))
