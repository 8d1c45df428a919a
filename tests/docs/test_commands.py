"""Every command in the documentation exists, and every command that exists is documented."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from tests.docs.pages import PAGES, READMES, REPOSITORY, code_blocks, name_of, shell_commands
from yearling.cli.main import app

each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


def make_targets() -> set[str]:
    text = (REPOSITORY / "Makefile").read_text()
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", text, re.MULTILINE))


def yearling_commands() -> set[str]:
    root: Any = typer.main.get_command(app)
    return {name for name, command in root.commands.items() if not command.hidden}


def yearling_groups() -> set[str]:
    root: Any = typer.main.get_command(app)
    return {name for name, command in root.commands.items() if hasattr(command, "commands")}


def documented(page: Path, program: str) -> list[list[str]]:
    return [words[1:] for words in shell_commands(page) if Path(words[0]).name == program]


@each_page
def test_make_targets_exist(page: Path) -> None:
    wanted = {word for words in documented(page, "make") for word in words if "=" not in word}
    wanted -= {"#"}
    assert wanted <= make_targets()


@each_page
def test_yearling_commands_answer_help(page: Path) -> None:
    for words in documented(page, "yearling"):
        options = [word for word in words if word.startswith("--")]
        command = words[: 2 if words[0] in yearling_groups() else 1]
        shown = CliRunner().invoke(app, [*command, "--help"], env={"COLUMNS": "200"})
        assert shown.exit_code == 0, words
        assert [option for option in options if option not in shown.output] == []


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_every_command_is_named_in_the_readme(page: Path) -> None:
    text = page.read_text("utf-8")
    assert [name for name in sorted(yearling_commands()) if f"`{name}`" not in text] == ["chat"]
    assert "`yearling chat`" in text


def test_every_make_target_is_explained_in_the_makefile() -> None:
    head = (REPOSITORY / "Makefile").read_text().partition("\n\nPYTHON")[0]
    assert make_targets() == set(re.findall(r"^#   make ([a-z-]+)", head, re.MULTILINE))


def test_readmes_hold_the_same_commands_and_code() -> None:
    english, chinese = READMES
    for language in ("sh", "python"):
        assert code_blocks(english, language) == code_blocks(chinese, language)
