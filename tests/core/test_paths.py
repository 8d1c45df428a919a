from pathlib import Path

import pytest

from yearling.core.errors import ConfigError
from yearling.core.paths import lineage_home, models_home, yearling_home


@pytest.fixture(autouse=True)
def _no_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("YEARLING_HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/someone")


def test_yearling_home_wins_over_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    monkeypatch.setenv("YEARLING_HOME", "/mine")
    assert yearling_home() == Path("/mine")


def test_yearling_home_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert yearling_home() == Path("/xdg/yearling")


def test_yearling_home_defaults_to_the_user_data_folder() -> None:
    assert yearling_home() == Path("/home/someone/.local/share/yearling")


def test_yearling_home_expands_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YEARLING_HOME", "~/models")
    assert yearling_home() == Path("/home/someone/models")


def test_yearling_home_refuses_a_relative_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YEARLING_HOME", "models")
    with pytest.raises(ConfigError, match=r"YEARLING_HOME='models' is a relative path"):
        yearling_home()


def test_parts_of_the_home_lie_in_it_and_are_not_created(tmp_home: Path) -> None:
    assert models_home() == tmp_home / "models"
    assert lineage_home() == tmp_home / "lineage"
    assert list(tmp_home.iterdir()) == []
