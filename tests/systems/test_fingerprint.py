"""A result knows when something it depends on has changed."""

from pathlib import Path

import pytest

from yearling.systems.fingerprint import changed_modules, fingerprint

FILES = {
    "entries/one.py": '"""One."""\n\nfrom yearling.parts import wheel\nimport json\n',
    "parts/__init__.py": '"""Parts."""\n',
    "parts/wheel.py": (
        '"""Wheel."""\n\nfrom typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n'
        "    from yearling.parts import spoke\n\n\ndef turn():\n"
        "    from yearling.parts.axle import AXLE\n\n    return AXLE\n"
    ),
    "parts/axle.py": "AXLE = 1  # of steel\n",
    "parts/spoke.py": "SPOKE = 1\n",
    "parts/brake.py": "BRAKE = 1\n",
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def changed(package: Path, name: str, text: str) -> list[str]:
    before = fingerprint(["entries.one"], package)
    (package / name).write_text(text)
    return changed_modules(before, fingerprint(["entries.one"], package))


def test_fingerprint_follows_imports_inside_functions_and_packages(package: Path) -> None:
    assert list(fingerprint(["entries.one"], package)) == [
        "entries.one",
        "parts",
        "parts.axle",
        "parts.wheel",
    ]


@pytest.mark.parametrize("name", ["entries/one.py", "parts/axle.py", "parts/__init__.py"])
def test_change_of_code_anywhere_below_is_seen(package: Path, name: str) -> None:
    stem = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert changed(package, name, FILES[name] + "NEW = 2\n") == [stem]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("parts/axle.py", "# about axles\n\n\nAXLE = 1  # of iron\n"),
        ("parts/wheel.py", FILES["parts/wheel.py"].replace("Wheel.", "A round thing.\n\nOld.")),
        ("parts/brake.py", "BRAKE = 2\n"),
        ("parts/spoke.py", "SPOKE = 2\n"),
    ],
)
def test_prose_and_files_not_imported_do_not_count(package: Path, name: str, text: str) -> None:
    assert changed(package, name, text) == []


def test_text_in_a_string_that_is_no_docstring_counts(package: Path) -> None:
    (package / "parts/axle.py").write_text("AXLE = '# 1'\n")
    assert changed(package, "parts/axle.py", "AXLE = '# 2'\n") == ["parts.axle"]


def test_module_that_goes_or_comes_is_named(package: Path) -> None:
    text = FILES["entries/one.py"] + "import yearling.parts.brake\n"
    assert changed(package, "entries/one.py", text) == ["entries.one", "parts.brake"]


def test_root_that_is_not_there_is_an_error(package: Path) -> None:
    with pytest.raises(ValueError, match=r"no module parts\.sail"):
        fingerprint(["entries.one", "parts.sail"], package)
