"""Rotary settings of transformers 4 and 5 and of GGUF."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.models.tiny_files import from_numpy, tiny_gguf
from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.fields import Fields
from yearling.models.rotary import rotary_frequencies
from yearling.models.rotary_export import rotary_to_config, rotary_to_gguf
from yearling.models.rotary_settings import rotary_from_config, rotary_from_gguf
from yearling.models.spec import Rotary, RotaryScaling

_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def _rotary(config: Mapping[str, object]) -> Rotary:
    return rotary_from_config(Fields(config, "config.json"), 8, context=2048)


@pytest.mark.parametrize(
    ("settings", "scaling"),
    [
        ({"type": "linear", "factor": 2}, RotaryScaling("linear", 2.0)),
        ({"rope_type": "default"}, None),
        ({"type": "dynamic", "factor": 4.0}, RotaryScaling("dynamic_ntk", 4.0, 2048)),
        (_LLAMA3, RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)),
        (
            {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
            RotaryScaling("yarn", 4.0, 512, 1.0, 32.0),
        ),
        ({"rope_type": "power", "exponent": 0.3}, RotaryScaling("power", exponent=0.3)),
        ({"rope_type": "truncated"}, RotaryScaling("truncated", 16.0, 2048, 1 / 8, 1.0)),
        (
            {"rope_type": "truncated", "factor": 8.0, "low_turns": 0.5, "high_turns": 2.0},
            RotaryScaling("truncated", 8.0, 2048, 0.5, 2.0),
        ),
    ],
)
def test_scaling_reads_alike_in_both_generations(
    settings: Mapping[str, object], scaling: RotaryScaling | None
) -> None:
    expected = Rotary(8, 5e5, scaling=scaling)
    assert _rotary({"rope_theta": 5e5, "rope_scaling": settings}) == expected
    assert _rotary({"rope_parameters": {"rope_theta": 5e5, **settings}}) == expected


def test_base_defaults_to_ten_thousand() -> None:
    assert _rotary({}) == Rotary(8, 10_000.0)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rope_scaling": {"type": "longrope", "factor": 2.0}}, "type='longrope' is not known"),
        ({"rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_scaling": {"type": "linear", "factor": 0}}, "greater than 0"),
        ({"rope_scaling": {**_LLAMA3, "mscale": 1.0}}, "mscale=1.0 is not known"),
        ({"rope_scaling": {**_LLAMA3, "high_freq_factor": 1.0}}, "high_freq_factor=1.0"),
        ({"rope_scaling": {"rope_type": "power"}}, "exponent is missing"),
        (
            {"rope_scaling": {"rope_type": "truncated", "low_turns": 2, "high_turns": 1}},
            "high_turns=1",
        ),
        ({"rope_scaling": "linear"}, "rope_scaling='linear' must be a mapping"),
        ({"rope_theta": float("inf")}, "rope_theta=inf must be finite"),
        (
            {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"type": "linear"}},
            "contradicts rope_parameters",
        ),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
            "truncate=False is not read",
        ),
    ],
)
def test_unknown_settings_are_refused_by_name(config: Mapping[str, object], words: str) -> None:
    with pytest.raises(ModelFormatError, match=words):
        _rotary(config)


@pytest.mark.parametrize(
    "scaling", [RotaryScaling("power", exponent=0.3), RotaryScaling("truncated", 8.0, 512, 0.5, 2)]
)
def test_giraffe_bases_survive_being_written(scaling: RotaryScaling) -> None:
    rotary = Rotary(8, 5e5, scaling=scaling)
    assert _rotary(rotary_to_config(rotary)) == rotary
    with pytest.raises(ModelFormatError, match="GGUF has no place for rotary scaling"):
        rotary_to_gguf(rotary, "llama")


def test_giraffe_bases_are_the_papers_formulas() -> None:
    dims, base, trained = 16, 10_000.0, 2048
    plain = [base ** (-2 * j / dims) for j in range(dims // 2)]
    power, _ = rotary_frequencies(Rotary(dims, base, scaling=RotaryScaling("power", exponent=0.3)))
    wanted = [plain[j] * (1 - 2 * j / dims) ** 0.3 for j in range(dims // 2)]
    np.testing.assert_allclose(power, wanted, rtol=1e-6)
    high = 2 * math.pi / trained
    cut = RotaryScaling("truncated", 16.0, trained, 1 / 8, 1.0)
    truncated, _ = rotary_frequencies(Rotary(dims, base, scaling=cut))
    # 0.00316, 0.001 and 0.000316 lie at 2π/2048 = 0.00307, above its eighth, and below that.
    assert truncated[:6] == pytest.approx(plain[:6])
    assert truncated[6:].tolist() == pytest.approx([high / 16, 0.0])


def _gguf_rotary(folder: Path, changes: Mapping[str, object], *extra: object) -> Rotary:
    path = folder / "model.gguf"
    path.write_bytes(tiny_gguf(changes, *extra))  # type: ignore[arg-type]
    file = GgufFile(path)
    return rotary_from_gguf(file, Fields(file.metadata, "model.gguf"), 8)


def test_gguf_scaling_is_read(tmp_path: Path) -> None:
    prefix = "llama.rope.scaling."
    linear = {prefix + "type": "linear", prefix + "factor": 2.0}
    assert _gguf_rotary(tmp_path, linear).scaling == RotaryScaling("linear", 2.0)
    yarn = {prefix + "type": "yarn", prefix + "factor": 4.0}
    yarn[prefix + "original_context_length"] = 512
    assert _gguf_rotary(tmp_path, yarn).scaling == RotaryScaling("yarn", 4.0, 512, 1.0, 32.0)
    assert _gguf_rotary(tmp_path, {"llama.rope.scale_linear": 2.0}).scaling is not None
    assert _gguf_rotary(tmp_path, {}).scaling is None
    with pytest.raises(ModelFormatError, match=r"scaling.type='longrope' is not known"):
        _gguf_rotary(tmp_path, {prefix + "type": "longrope"})


def test_gguf_divisors_of_llama3_are_recognised(tmp_path: Path) -> None:
    scaling = RotaryScaling("llama3", 32.0, 8192, 1.0, 4.0)
    base = {"llama.rope.freq_base": 500_000.0}
    plain, _ = rotary_frequencies(Rotary(8, 500_000.0))
    scaled, _ = rotary_frequencies(Rotary(8, 500_000.0, scaling=scaling))
    divisors = plain / scaled
    tensor = from_numpy("rope_freqs.weight", divisors)
    assert _gguf_rotary(tmp_path, base, tensor).scaling == scaling
    with pytest.raises(ModelFormatError, match="divisors other than Llama 3's"):
        _gguf_rotary(tmp_path, base, from_numpy("rope_freqs.weight", divisors[::-1].copy()))


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "settings",
    [
        _LLAMA3,
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        {"rope_type": "yarn", "factor": 2.0, "beta_fast": 16.0, "attention_factor": 1.5},
    ],
)
def test_settings_mean_what_transformers_takes_them_for(settings: Mapping[str, object]) -> None:
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_theta": 5e5, **settings}
    config = LlamaConfig(
        hidden_size=256,
        num_attention_heads=2,
        max_position_embeddings=2048,
        rope_parameters=parameters,
    )
    expected, expected_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, "cpu")
    rotary = rotary_from_config(Fields({"rope_parameters": parameters}, "config.json"), 128, 2048)
    frequencies, factor = rotary_frequencies(rotary)
    np.testing.assert_allclose(frequencies, expected.numpy(), rtol=1e-5)
    assert factor == pytest.approx(expected_factor)
