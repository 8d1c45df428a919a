"""The page's files: what was copied is what it says, small, and complete in both languages."""

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest

from yearling import server

STATIC = Path(server.__file__).parent / "static"
ASSETS = STATIC / "assets"
VENDOR = ASSETS / "vendor"
TOTAL_BYTES = 600_000
FILE_LINES = 300
LINE_LENGTH = 100

OWN_MODULES = sorted(path for path in ASSETS.rglob("*.js") if not path.is_relative_to(VENDOR))
OWN_FILES = sorted(
    path
    for path in STATIC.rglob("*")
    if path.suffix in {".js", ".css", ".html", ".json", ".webmanifest"}
    and not path.is_relative_to(VENDOR)
)
each_module = pytest.mark.parametrize("path", OWN_MODULES, ids=lambda path: path.name)


def catalogue(language: str) -> dict[str, str]:
    texts: dict[str, str] = json.loads((ASSETS / "i18n" / f"{language}.json").read_text("utf-8"))
    return texts


def test_vendored_files_are_the_listed_ones_unchanged() -> None:
    listed = {
        name: digest
        for package in json.loads((VENDOR / "vendor.json").read_text("utf-8"))["packages"]
        for name, digest in package["files"].items()
    }
    found = {
        path.relative_to(VENDOR).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in VENDOR.rglob("*")
        if path.is_file() and path.name != "vendor.json"
    }
    assert found == listed


def test_every_vendored_package_carries_its_licence() -> None:
    for folder in (path for path in VENDOR.iterdir() if path.is_dir()):
        assert any(folder.glob("LICENSE*")), f"{folder.name} has no licence file"


def test_page_weighs_at_most_600_kilobytes_gzipped() -> None:
    files = [path for path in STATIC.rglob("*") if path.is_file()]
    total = sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)
    assert total <= TOTAL_BYTES, f"the page weighs {total} bytes gzipped"


def test_catalogues_have_the_same_texts_with_the_same_places() -> None:
    english, chinese = catalogue("en"), catalogue("zh")
    assert list(english) == list(chinese)
    for key, text in english.items():
        places = set(re.findall(r"\{(\w+)\}", text))
        assert set(re.findall(r"\{(\w+)\}", chinese[key])) == places, key


def test_every_text_is_used_and_every_text_used_exists() -> None:
    known = set(catalogue("en"))
    code = "\n".join(path.read_text("utf-8") for path in OWN_MODULES)
    quoted = set(re.findall(r'"([\w.]+)"', code))
    # A key that ends in a value, as in t(`error.${kind}`), uses all keys that begin so.
    prefixes = tuple(re.findall(r"\bt\(`([a-z.]+\.)\$\{", code))
    assert {key for key in known - quoted if not key.startswith(prefixes)} == set()
    called = set(re.findall(r'(?:\bt|translator\(\))\("([^"]+)"', code))
    assert called - known == set()


def test_no_own_file_names_another_host() -> None:
    namespaces = {"http://www.w3.org/2000/svg"}
    for path in OWN_FILES:
        hosts = set(re.findall(r"https?://[\w.]+[^\s\"'`)]*", path.read_text("utf-8")))
        assert hosts <= namespaces, f"{path.name}: {hosts}"


def test_page_holds_no_inline_code_or_style() -> None:
    text = (STATIC / "index.html").read_text("utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=", text) == []


def test_everything_the_page_links_to_exists() -> None:
    manifest = json.loads((ASSETS / "manifest.webmanifest").read_text("utf-8"))
    linked = re.findall(
        r'(?:src|href)="(/assets/[^"]+)"', (STATIC / "index.html").read_text("utf-8")
    )
    linked += [icon["src"] for icon in manifest["icons"]]
    assert [name for name in linked if not (STATIC / name[1:]).is_file()] == []


def test_page_preloads_exactly_the_modules_it_starts_with() -> None:
    todo, found = [ASSETS / "app.js"], set()
    while todo:
        path = todo.pop().resolve()
        if path in found:
            continue
        found.add(path)
        names = re.findall(r'from\s+"(\.[^"]+)"', path.read_text("utf-8"))
        todo += [path.parent / name for name in names]
    needed = {f"/{path.relative_to(STATIC.resolve()).as_posix()}" for path in found}
    page = (STATIC / "index.html").read_text("utf-8")
    preloaded = re.findall(r'rel="modulepreload" href="([^"]+)"', page)
    assert sorted(needed - {"/assets/app.js"}) == preloaded


@each_module
def test_module_is_short_and_says_what_it_is_for(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= FILE_LINES
    assert max(map(len, lines)) <= LINE_LENGTH
    assert lines[0].startswith(("/**", "//"))


@each_module
def test_module_imports_only_files_that_exist(path: Path) -> None:
    names = re.findall(r'(?:from|import\()\s*"(\.[^"]+)"', path.read_text("utf-8"))
    assert [name for name in names if not (path.parent / name).is_file()] == []
