"""The Markdown of the repository as the tests read it: its pages and their code."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
READMES = (REPOSITORY / "README.md", REPOSITORY / "README.zh-CN.md")
PAGES = (*READMES, REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").rglob("*.md")))

_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")


def code_blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    return [body for found, body in _BLOCK.findall(path.read_text("utf-8")) if found == language]


def shell_commands(path: Path) -> list[list[str]]:
    """The words of every command line in the page's `sh` blocks, without comments."""
    lines = "\n".join(code_blocks(path, "sh")).splitlines()
    stripped = [line.partition("  #")[0].split() for line in lines]
    return [words for words in stripped if words]


def relative_links(path: Path) -> list[str]:
    """Targets of links and images that lie in the repository."""
    return _LINK.findall(path.read_text("utf-8"))


def name_of(path: Path) -> str:
    """The page's path, as a test id."""
    return str(path.relative_to(REPOSITORY))
