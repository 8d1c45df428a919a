"""Sections written short, and sections whose keys a registered entry decides."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import SecretStr, ValidationError

from yearling.core.config import Config, load_config, save_config
from yearling.core.errors import ConfigError, RegistryError
from yearling.core.registry import Registry
from yearling.core.section import Choice, NamedEntry, Shorthand


class Small(Config):
    rate: float = 1.0


class Large(Config):
    size: int = 3
    token: SecretStr = SecretStr("")


@dataclass
class Kind:
    config: type[Config]


class Kinds(Registry[Any]):
    """Two entries that need no files."""

    def __init__(self) -> None:
        super().__init__("kind", "tests.nowhere", "yearling.nowhere")

    def names(self) -> tuple[str, ...]:
        return ("large_one", "small")

    def get(self, name: str) -> Kind:
        if name not in self.names():
            raise RegistryError(f"no kind is named {name!r}. Nearest: small.")
        return Kind(Small if name == "small" else Large)


KINDS = Kinds()


class Inner(Config):
    paths: str
    limit: int = 5


class Whole(Config):
    kind: Annotated[NamedEntry, Choice(KINDS, default="small")]
    other: Annotated[NamedEntry | None, Choice(KINDS)] = None
    inner: Annotated[Inner, Shorthand("paths")] = Inner(paths="a")
    several: tuple[Annotated[NamedEntry, Choice(KINDS)], ...] = ()
    parts: list[Inner] | None = None


def read(tmp_path: Path, text: str, *overrides: str) -> Whole:
    file = tmp_path / "c.yaml"
    file.write_text(text)
    return load_config(Whole, file, overrides)


def test_bare_name_has_the_defaults_of_its_entry(tmp_path: Path) -> None:
    found = read(tmp_path, "kind: large-one\n")
    assert found.kind == NamedEntry("large_one", Large())
    assert found.other is None


def test_section_without_a_name_means_the_default(tmp_path: Path) -> None:
    assert read(tmp_path, "kind: {rate: 2}\n").kind == NamedEntry("small", Small(rate=2))
    with pytest.raises(ConfigError, match="name says which kind is meant, and is missing"):
        read(tmp_path, "kind: small\nother: {size: 2}\n")


def test_overrides_open_short_forms(tmp_path: Path) -> None:
    found = read(tmp_path, "kind: small\ninner: b\n", "kind.rate=4", "inner.limit=9")
    assert found.kind.options == Small(rate=4)
    assert found.inner == Inner(paths="b", limit=9)


def test_saved_sections_read_back(tmp_path: Path) -> None:
    found = read(tmp_path, "kind: {name: large_one, size: 7}\nother: small\ninner: b\n")
    save_config(found, tmp_path / "saved.yaml")
    assert load_config(Whole, tmp_path / "saved.yaml") == found


def test_errors_inside_name_key_file_and_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "kind:\n  name: large_one\n  sice: 3\n")
    assert str(error.value) == (
        f"kind.sice is not a known key.\n  Set in {tmp_path}/c.yaml:3. Nearest: size."
    )
    with pytest.raises(ConfigError, match=r"kind=tiny: no kind is named 'tiny'\.[^\n]*\n  Set in"):
        read(tmp_path, "kind: tiny\n")


@pytest.mark.parametrize(
    ("text", "key", "near"),
    [
        ("several:\n  - small\n  - {name: large_one, sice: 3}\n", "several.1.sice", "size"),
        ("parts:\n  - paths: a\n  - {paths: b, linit: 3}\n", "parts.1.linit", "limit"),
    ],
)
def test_unknown_key_inside_a_list_has_nearest_ones_too(
    tmp_path: Path, text: str, key: str, near: str
) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "kind: small\n" + text)
    said = f"{key} is not a known key.\n  Set in {tmp_path}/c.yaml:4. Nearest: {near}."
    assert str(error.value) == said


def test_unknown_key_with_none_like_it_ends_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Small, "model_fields", {})
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "kind: {rata: 1}\n")
    assert str(error.value) == f"kind.rata is not a known key.\n  Set in {tmp_path}/c.yaml:1."


def test_secret_of_an_entry_in_a_list_is_never_printed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "kind: small\nseveral:\n  - {name: large_one, token: [hunter2]}\n")
    assert "hunter2" not in str(error.value)


def test_value_of_a_short_form_is_found_in_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inner\.paths=3: .*\n  Set in .*c\.yaml:2"):
        read(tmp_path, "kind: small\ninner: 3\n")


def test_secret_of_an_entry_is_never_printed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, "kind: large_one\n", "kind.token=[hunter2]")
    assert "hunter2" not in str(error.value)


def test_schema_for_forms_lists_the_names() -> None:
    schema = Whole.model_json_schema()["properties"]["kind"]
    assert schema["anyOf"][0] == {"type": "string", "enum": ["large_one", "small"]}


def test_wrong_form_is_refused() -> None:
    with pytest.raises(ValidationError, match="write the name of the kind"):
        Whole.model_validate({"kind": 3})
