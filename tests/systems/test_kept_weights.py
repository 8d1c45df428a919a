"""Weights that are trained once: what makes them be trained again."""

from pathlib import Path

import pytest
import torch

from yearling.systems.kept_weights import train_or_read

SETTINGS = {"steps": 3, "modules": ["systems.kept_weights"]}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YEARLING_HOME", str(tmp_path))


def trained(settings: dict[str, object], value: float) -> float:
    """Give what a weight is that training sets to a value."""
    decoder = torch.nn.Linear(1, 1, bias=False)
    said: list[str] = []

    def train() -> None:
        torch.nn.init.constant_(decoder.weight, value)

    train_or_read(decoder, "toy", settings, train, said.append)
    assert len(said) == 1
    return decoder.weight.item()


def test_equal_settings_train_once() -> None:
    assert trained(SETTINGS, 1.0) == 1.0
    assert trained(SETTINGS, 2.0) == 1.0


def test_other_settings_and_other_code_train_again() -> None:
    assert trained(SETTINGS, 1.0) == 1.0
    assert trained({**SETTINGS, "steps": 4}, 2.0) == 2.0
    assert trained({**SETTINGS, "modules": ["systems.text_by_context"]}, 3.0) == 3.0


def test_training_that_fails_keeps_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("diverged")

    with pytest.raises(RuntimeError, match="diverged"):
        train_or_read(torch.nn.Linear(1, 1), "toy", SETTINGS, fail, print)
    assert not list(tmp_path.rglob("*.safetensors"))
