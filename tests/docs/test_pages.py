"""What the pages say is true: links, code, lists of packages and routes, the changelog."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version
from starlette.routing import Route

from tests.docs.pages import PAGES, READMES, REPOSITORY, code_blocks, name_of, relative_links
from yearling.server.app import build_app
from yearling.server.config import ServerConfig

EXTRAS_WITHOUT_ROWS = ("train", "media", "apps", "cluster")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    missing = [link for link in relative_links(page) if not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_are_python(page: Path) -> None:
    for block in code_blocks(page, "python"):
        compile(block, name_of(page), "exec")


def test_python_api_page_runs_as_one_program(smollm2_path: Path) -> None:
    program = "\n".join(code_blocks(REPOSITORY / "docs" / "python-api.md", "python"))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert "(4, 49152)" in done.stdout
    assert "smollm2" in done.stdout


@pytest.mark.parametrize("page", READMES, ids=name_of)
def test_readme_example_runs(page: Path, smollm2_path: Path) -> None:
    (example,) = [block for block in code_blocks(page, "python") if "LLM" in block]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_changelog_keeps_its_form() -> None:
    text = (REPOSITORY / "CHANGELOG.md").read_text("utf-8")
    assert text.startswith("# Changelog\n")
    releases = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert releases[0] == "[Unreleased]"
    dated = [
        re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d{2}-\d{2}", line) for line in releases[1:]
    ]
    assert all(dated)
    versions = [Version(match[1]) for match in dated if match]
    assert versions == sorted(versions, reverse=True)
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_http_api_page_lists_every_route() -> None:
    text = (REPOSITORY / "docs" / "http-api.md").read_text("utf-8")
    listed = set(re.findall(r"`(GET|POST|DELETE) (/[^`]*)`", text))
    app = build_app([], ServerConfig())
    served = {
        (method, re.sub(r":path}", "}", route.path))
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods - {"HEAD"}
    }
    assert listed == served


def project() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_dependencies_page_has_a_row_for_each() -> None:
    text = (REPOSITORY / "docs" / "dependencies.md").read_text("utf-8")
    rows = {
        plain(name) for name in re.findall(r"^\| ([\w.-]+) \|.*\|.*\|.*\|.*\|", text, re.MULTILINE)
    }
    declared = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    build = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["build-system"]["requires"]
    names = {plain(Requirement(line).name) for line in (*declared, *build)}
    assert rows - {"package"} == names
    for extra in EXTRAS_WITHOUT_ROWS:
        assert f"| `{extra}` |" in text


def test_constraints_pin_what_is_declared_within_its_range() -> None:
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {plain(name): version for name, version in pins.items()}
    declared = [*project()["dependencies"], *project()["optional-dependencies"]["dev"]]
    for requirement in map(Requirement, declared):
        assert requirement.specifier.contains(pinned[plain(requirement.name)]), requirement
    assert pins["torch"] == "2.13.0"
