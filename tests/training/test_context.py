"""Stretched positions: the frequencies asked for, computed alike by both interpreters."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.models.tiny_files import CONFIG, write_folder
from tests.models.torch_variants import VARIANTS, attending, model
from yearling.core.errors import ConfigError, UnsupportedError
from yearling.models.checkpoint import open_checkpoint
from yearling.models.rotary import rotary_frequencies
from yearling.models.rotary_export import rotary_to_config
from yearling.models.spec import Attention, ModelSpec, Rotary
from yearling.models.torch_decoder import Segments, load_torch_decoder
from yearling.serving.llm import LLM
from yearling.training.context import ContextConfig, extend_context

PLAIN = VARIANTS["plain"]
METHODS = ("linear", "ntk", "base", "yarn", "power", "truncated")


def rotary(spec: ModelSpec, layer: int = 0) -> Rotary:
    mixer = spec.layers[layer].mixer
    assert isinstance(mixer, Attention)
    assert isinstance(mixer.positions, Rotary)
    return mixer.positions


def frequencies(method: str, **options: float) -> list[float]:
    config = ContextConfig(tokens=512, method=method, **options)  # type: ignore[arg-type]
    spec = extend_context(PLAIN, config)
    assert spec.context == 512
    return rotary_frequencies(rotary(spec))[0].tolist()


def test_linear_divides_every_frequency() -> None:
    plain = rotary_frequencies(rotary(PLAIN))[0]
    assert frequencies("linear") == pytest.approx((plain / 4).tolist())


def test_ntk_keeps_the_fastest_and_divides_the_slowest() -> None:
    plain, stretched = rotary_frequencies(rotary(PLAIN))[0], frequencies("ntk")
    assert stretched[0] == plain[0]
    assert stretched[-1] == pytest.approx(plain[-1] / 4)


def test_base_is_the_one_asked_for() -> None:
    assert frequencies("base", base=5e5)[1] == pytest.approx(5e5 ** (-2 / 8))


def test_truncation_goes_by_the_trained_context() -> None:
    slow = 2 * np.pi / PLAIN.context / 16
    # Of 1, 0.1, 0.01 and 0.001, the third lies between 2π/128/8 = 0.0061 and 2π/128 = 0.049.
    assert frequencies("truncated") == pytest.approx([1.0, 0.1, slow, 0.0])


def test_layers_with_a_window_keep_their_positions() -> None:
    spec = model(attending(window=7), attending())
    extended = extend_context(spec, ContextConfig(tokens=512))
    assert rotary(extended, 0).scaling is None
    assert rotary(extended, 1).scaling is not None


def test_what_cannot_be_stretched_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"context.tokens=64 is no more than the 128"):
        extend_context(PLAIN, ContextConfig(tokens=64))
    once = extend_context(PLAIN, ContextConfig(tokens=512))
    with pytest.raises(ConfigError, match="only plain ones are stretched"):
        extend_context(once, ContextConfig(tokens=1024))
    with pytest.raises(UnsupportedError, match="no rotary positions"):
        extend_context(VARIANTS["alibi"], ContextConfig(tokens=512))


@pytest.mark.parametrize("method", METHODS)
def test_both_interpreters_compute_stretched_positions(method: str, tmp_path: Path) -> None:
    plain = open_checkpoint(write_folder(tmp_path / "plain"))
    spec = extend_context(plain.spec, ContextConfig(tokens=256, method=method))  # type: ignore[arg-type]
    changes = {**rotary_to_config(rotary(spec)), "max_position_embeddings": 256}
    folder = write_folder(tmp_path / "stretched", {"config.json": {**CONFIG, **changes}})
    stretched = open_checkpoint(folder)
    assert stretched.spec == replace(spec, family=stretched.spec.family)
    ids = np.random.default_rng(3).integers(0, 4, 100)
    decoder = load_torch_decoder(plain, spec=spec).eval()
    with torch.no_grad():
        ours = decoder.logits(decoder(torch.from_numpy(ids), Segments([100]))).numpy()
    with LLM(folder, weights="float32") as llm:
        native = llm.logits(ids.tolist())
    np.testing.assert_allclose(native, ours, atol=2e-3 * np.abs(ours).max())
    unchanged = load_torch_decoder(plain).eval()
    with torch.no_grad():
        before = unchanged.logits(unchanged(torch.from_numpy(ids), Segments([100]))).numpy()
    assert np.abs(before - ours).max() > 0.1 * np.abs(ours).max()
