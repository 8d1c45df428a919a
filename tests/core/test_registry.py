import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from yearling.core import registry as registry_module
from yearling.core.errors import RegistryError
from yearling.core.registry import Registry

PACKAGE = "registry_example"


@pytest.fixture
def animals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry[type]]:
    folder = tmp_path / PACKAGE
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from yearling.core.registry import Registry\n"
        f"animals = Registry('animal', {PACKAGE!r}, 'yearling.test_animals')\n"
    )
    for stem, body in {
        "horse": "@animals.register\nclass Horse: pass\n",
        "donkey": "@animals.register\nclass Donkey: pass\n",
        "silent": "",
        "_private": "raise AssertionError('a private file is no entry')\n",
        "twice": "@animals.register\nclass A: pass\n@animals.register\nclass B: pass\n",
    }.items():
        (folder / f"{stem}.py").write_text(f"from {PACKAGE} import animals\n{body}")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__(PACKAGE).animals
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_names_are_the_files_of_the_folder(animals: Registry[type]) -> None:
    assert animals.names() == ("donkey", "horse", "silent", "twice")
    assert f"{PACKAGE}.horse" not in sys.modules


def test_get_imports_one_file_only(animals: Registry[type]) -> None:
    assert animals.get("horse").__name__ == "Horse"
    assert f"{PACKAGE}.donkey" not in sys.modules


def test_get_twice_gives_the_same_entry(animals: Registry[type]) -> None:
    assert animals.get("horse") is animals.get("horse")


def test_miss_names_the_nearest(animals: Registry[type]) -> None:
    with pytest.raises(RegistryError, match=r"no animal is named 'hoarse'\. Nearest: horse"):
        animals.get("hoarse")


def test_miss_without_a_near_one_names_all(animals: Registry[type]) -> None:
    with pytest.raises(RegistryError, match="donkey, horse, silent, twice"):
        animals.get("xyzzy")


@pytest.mark.parametrize("name", ["../horse", "_private", "horse.donkey", ""])
def test_names_that_are_no_file_stem_are_misses(animals: Registry[type], name: str) -> None:
    with pytest.raises(RegistryError, match="no animal is named"):
        animals.get(name)


def test_file_that_registers_nothing_is_an_error(animals: Registry[type]) -> None:
    with pytest.raises(RegistryError, match=r"silent registers no animal named 'silent'"):
        animals.get("silent")


def test_second_entry_in_a_file_is_an_error(animals: Registry[type]) -> None:
    with pytest.raises(RegistryError, match="registered twice"):
        animals.get("twice")


def test_entry_points_enter_by_the_same_door(
    animals: Registry[type], monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("counter", "collections:Counter", "yearling.test_animals")
    groups = {"yearling.test_animals": [point]}

    def fake_entry_points(*, group: str) -> list[Any]:
        return groups.get(group, [])

    monkeypatch.setattr(registry_module, "entry_points", fake_entry_points)
    assert "counter" in animals.names()
    assert animals.get("counter").__name__ == "Counter"


def test_iteration_gives_every_name_with_its_entry(tmp_path: Path, animals: Registry[type]) -> None:
    folder = tmp_path / PACKAGE
    (folder / "silent.py").unlink()
    (folder / "twice.py").unlink()
    assert [(name, entry.__name__) for name, entry in animals] == [
        ("donkey", "Donkey"),
        ("horse", "Horse"),
    ]
