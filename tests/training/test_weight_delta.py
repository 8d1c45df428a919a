"""Differences of weights: back to the tuned model with the right base, and with no other."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny_files import CANONICAL_SHAPES, CONFIG, tiny_safetensors, write_folder
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.checkpoint.formats import to_float32
from yearling.models.convert import convert
from yearling.models.weights import weights_of
from yearling.training.weight_delta import apply_delta, hash_weights, is_delta, make_delta


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "base")


@pytest.fixture
def tuned(tmp_path: Path) -> Path:
    """Two tokens more than the base, and other weights everywhere."""
    shapes = {**CANONICAL_SHAPES, "model.embed_tokens.weight": (6, 32)}
    files = {
        "model.safetensors": tiny_safetensors(shapes),
        "config.json": {**CONFIG, "vocab_size": 6},
    }
    return write_folder(tmp_path / "tuned", files)


def values(folder: Path) -> list[np.ndarray]:
    checkpoint = open_checkpoint(folder)
    return [to_float32(checkpoint.weight(weight)) for weight in weights_of(checkpoint.spec)]


def test_delta_gives_the_tuned_model_back(base: Path, tuned: Path, tmp_path: Path) -> None:
    make_delta(base, tuned, tmp_path / "delta")
    assert is_delta(tmp_path / "delta")
    assert not is_delta(base)
    apply_delta(tmp_path / "delta", base, tmp_path / "result")
    for result, wanted in zip(values(tmp_path / "result"), values(tuned), strict=True):
        np.testing.assert_allclose(result, wanted, atol=1e-6)
    config = json.loads((tmp_path / "result/config.json").read_text())
    assert config["vocab_size"] == 6
    assert not (tmp_path / "result/weight_delta.json").exists()


def test_half_precision_comes_back_to_the_bit(base: Path, tuned: Path, tmp_path: Path) -> None:
    convert(tuned, tmp_path / "half", "BF16")
    make_delta(base, tmp_path / "half", tmp_path / "delta")
    assert apply_delta(tmp_path / "delta", base, tmp_path / "result")
    assert all(map(np.array_equal, values(tmp_path / "result"), values(tmp_path / "half")))


def test_base_is_known_by_its_numbers_not_by_its_files(base: Path, tmp_path: Path) -> None:
    convert(base, tmp_path / "wider", "F32")
    assert hash_weights(open_checkpoint(base)) == hash_weights(open_checkpoint(tmp_path / "wider"))


def test_another_base_is_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    make_delta(base, tuned, tmp_path / "delta")
    convert(base, tmp_path / "rounded", "F16")
    with pytest.raises(ModelFormatError, match="is for a base whose weights hash to"):
        apply_delta(tmp_path / "delta", tmp_path / "rounded", tmp_path / "result")
    assert not (tmp_path / "result").exists()


def test_other_shapes_are_refused(base: Path, tuned: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFormatError, match="vocabulary=4 is smaller"):
        make_delta(tuned, base, tmp_path / "delta")


def test_delta_is_no_model(base: Path, tuned: Path, tmp_path: Path) -> None:
    make_delta(base, tuned, tmp_path / "delta")
    with pytest.raises(Exception, match="safetensors"):
        open_checkpoint(tmp_path / "delta")
