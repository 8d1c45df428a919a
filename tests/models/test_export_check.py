"""Settings read back before a file is written: what is another model, and its name."""

from dataclasses import replace

import pytest

from yearling.core.errors import ModelFormatError
from yearling.models.export_check import check_config, spec_differences
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.spec import ModelSpec

_CONFIG = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.fixture
def spec() -> ModelSpec:
    """A tiny LLaMA."""
    return families.get("llama").spec_from_config(Fields(_CONFIG, "config.json"))


def test_rounding_and_family_are_no_difference(spec: ModelSpec) -> None:
    assert spec.final_norm is not None
    norm = replace(spec.final_norm, epsilon=spec.final_norm.epsilon * (1 + 1e-8))
    assert spec_differences(spec, replace(spec, final_norm=norm, family="mistral")) == []
    norm = replace(norm, epsilon=1e-5)
    assert spec_differences(spec, replace(spec, final_norm=norm)) == [
        "final_norm.epsilon=1e-05 instead of 1e-06"
    ]


def test_layers_are_counted_and_compared(spec: ModelSpec) -> None:
    assert spec_differences(spec, replace(spec, layers=spec.layers[:1])) == [
        "1 layers instead of 2"
    ]
    other = replace(spec.layers[1], mlp=None)
    (difference,) = spec_differences(spec, replace(spec, layers=(spec.layers[0], other)))
    assert difference.startswith("layers[1].mlp=None instead of {'hidden': 48")


def test_settings_of_another_model_are_refused(spec: ModelSpec) -> None:
    family = families.get("llama")
    check_config(spec, family, _CONFIG)
    with pytest.raises(
        ModelFormatError, match=r"config\.json has no place .*width=64 instead of 32"
    ):
        check_config(spec, family, _CONFIG | {"hidden_size": 64, "head_dim": 8})
