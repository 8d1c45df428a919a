"""The data page: its rows are read as it says, its configuration loads, its program prints that."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import REPOSITORY, code_blocks
from yearling.core.config import load_config
from yearling.data.columns import Columns
from yearling.data.config import DataConfig
from yearling.data.filters import filters
from yearling.data.readers import readers
from yearling.data.schema import read_row, recognise, schemas

PAGE = REPOSITORY / "docs" / "data.md"
TEXT = PAGE.read_text("utf-8")


def test_rows_are_recognised_as_their_headings_say_in_order() -> None:
    headings = re.findall(r"^### (\w+)$", TEXT, re.MULTILINE)
    rows = [json.loads(block) for block in code_blocks(PAGE, "json")]
    assert [recognise(Columns(row)).name for row in rows] == headings
    assert headings == [schema.name for schema in schemas()]
    assert all(read_row(row)[1] == [] for row in rows)


def test_configuration_loads(tmp_path: Path) -> None:
    (block,) = code_blocks(PAGE, "yaml")
    file = tmp_path / "data.yaml"
    file.write_text(block)
    config = load_config(DataConfig, file)
    assert [step.name for step in config.filters] == ["exact_duplicates", "length"]


def test_program_prints_what_the_page_says(tmp_path: Path) -> None:
    (program,) = code_blocks(PAGE, "python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "'row': 'train.csv:3', 'detail': '3 fields where it has 2'" in done.stdout
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert (report["kept"], report["filtered"], report["lost"]) == (1, 1, 1)


@pytest.mark.parametrize("name", filters.names())
def test_every_filter_has_its_row_with_true_defaults(name: str) -> None:
    kind = filters.get(name)
    row = next(line for line in TEXT.splitlines() if line.startswith(f"| `{name}` |"))
    assert kind.summary.removeprefix("takes out ") in row
    for key, field in kind.config.model_fields.items():
        default = "" if field.is_required() or field.default is None else f": {field.default}"
        assert f"`{key}{default}".replace("()", "[]").replace("False", "false") in row


def test_every_suffix_is_named() -> None:
    suffixes = {suffix.removesuffix(".gz") for _, reader in readers for suffix in reader.suffixes}
    assert [suffix for suffix in sorted(suffixes) if f"`{suffix}`" not in TEXT] == []
