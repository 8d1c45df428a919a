"""LoRA's layers: which ones, how they begin, what they compute."""

import json
from pathlib import Path

import pytest
import torch

from tests.models.torch_variants import VARIANTS, decoder
from yearling.core.errors import ConfigError, ModelFormatError
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.torch_decoder import Segments, TorchDecoder, initialise
from yearling.training.adapters import adapters
from yearling.training.adapters.lora import LoraConfig
from yearling.training.lora_layers import lora_layers, update_factors

LORA = adapters.get("lora")


def attached(variant: str = "plain", **options: object) -> TorchDecoder:
    made = decoder(VARIANTS[variant])
    LORA.attach(made, LoraConfig(**options), 1)  # type: ignore[arg-type]
    return made


def targets(model: TorchDecoder) -> set[str]:
    return {name.rpartition(".")[2] for name, _ in lora_layers(model)}


def test_all_linear_leaves_head_and_embedding_out() -> None:
    assert targets(attached()) == {"query", "key", "value", "output", "gate", "up", "down"}


def test_all_linear_of_a_state_space_is_what_peft_takes() -> None:
    assert targets(attached("mamba")) == {"state_input", "state_parameters", "time_step"}


def test_targets_are_roles_and_names() -> None:
    model = attached(targets=("query", "layers.1.part.up"))
    assert [name for name, _ in lora_layers(model)] == [
        "layers.0.part.query",
        "layers.1.part.query",
        "layers.1.part.up",
    ]


def test_head_is_adapted_when_it_is_named() -> None:
    assert targets(attached(targets=("head",))) == {"head"}


def test_target_that_is_nothing_is_refused_with_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"'qurey' is no linear layer.*Nearest: query") as error:
        attached(targets=("up", "qurey"))
    assert "By role there are down, gate, head" in str(error.value)
    with pytest.raises(ConfigError, match="'w' is no layer"):
        attached(trained_whole=("w",))
    with pytest.raises(ConfigError, match="one of the targets as well"):
        attached(trained_whole=("query",))


def test_second_adapter_is_refused() -> None:
    with pytest.raises(ConfigError, match="has an adapter already"):
        LORA.attach(attached(), LoraConfig(), 1)


@pytest.mark.parametrize(("use_rslora", "factor"), [(False, 12 / 4), (True, 12 / 2)])
def test_layer_adds_the_scaled_product(use_rslora: bool, factor: float) -> None:
    model = attached(r=4, alpha=12.0, use_rslora=use_rslora)
    _, layer = next(iter(lora_layers(model)))
    first, second = update_factors(layer)
    with torch.no_grad():
        second.weight.normal_()
    values = torch.randn(5, first.in_features)
    base = values @ layer.get_base_layer().weight.T
    expected = base + factor * values @ first.weight.T @ second.weight.T
    torch.testing.assert_close(layer(values), expected)


def test_updates_are_float32_over_a_half_precision_base() -> None:
    model = decoder(VARIANTS["plain"]).bfloat16()
    LORA.attach(model, LoraConfig(), 1)
    learned = [p for p in model.parameters() if p.requires_grad]
    assert {p.dtype for p in learned} == {torch.float32}
    hidden = model(torch.arange(5), Segments([5]))
    assert hidden.dtype == torch.bfloat16
    # The same first values as over float32: they do not pass through the base's type.
    exact = [p for p in attached().parameters() if p.requires_grad]
    assert all(map(torch.equal, learned, exact))


def test_attaching_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    attached()
    assert torch.equal(torch.rand(3), expected)


def test_dropout_is_for_training_alone() -> None:
    model = attached(dropout=0.5)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(update_factors(layer)[1].weight)
    tokens, segments = torch.arange(9), Segments([9])
    assert not torch.equal(model(tokens, segments), model(tokens, segments))
    model.eval()
    assert torch.equal(model(tokens, segments), model(tokens, segments))


def test_transposed_layers_are_adapted_and_saved_so(tmp_path: Path) -> None:
    family = families.get("gpt2")
    config = {
        "model_type": "gpt2",
        "vocab_size": 64,
        "n_positions": 32,
        "n_embd": 32,
        "n_layer": 1,
        "n_head": 4,
    }
    spec = family.spec_from_config(Fields(config, "config.json"))
    model = TorchDecoder(spec, family, device="cpu")
    initialise(model, seed=1)
    LORA.attach(model, LoraConfig(), 1)
    for _, layer in lora_layers(model):
        torch.nn.init.normal_(update_factors(layer)[1].weight)
    model.eval()
    tokens, segments = torch.arange(9), Segments([9])
    before = model(tokens, segments)
    LORA.save(model, LoraConfig(), tmp_path, "gpt2")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["fan_in_fan_out"] is True
    assert settings["target_modules"] == ["c_attn", "c_fc", "c_proj"]
    LORA.merge(model)
    torch.testing.assert_close(model(tokens, segments), before, atol=1e-4, rtol=1e-4)


def test_file_of_another_scale_or_shape_is_refused(tmp_path: Path) -> None:
    LORA.save(attached(r=4, alpha=8.0), LoraConfig(r=4, alpha=8.0), tmp_path, "x")
    with pytest.raises(ModelFormatError, match=r"by 2 \(lora_alpha=8, r=4\), this decoder .* by 4"):
        LORA.load(attached(r=4, alpha=16.0), tmp_path)
    with pytest.raises(ModelFormatError, match="the decoder's"):
        LORA.load(attached(r=8, alpha=16.0), tmp_path)
    with pytest.raises(ModelFormatError, match="tensors are missing"):
        LORA.load(attached(r=4, alpha=8.0, trained_whole=("norms",)), tmp_path)


def test_saved_settings_name_no_module_trained_whole_when_there_is_none(tmp_path: Path) -> None:
    LORA.save(attached(), LoraConfig(), tmp_path, "base/name")
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert settings["modules_to_save"] is None
    assert settings["lora_alpha"] == 32
    assert isinstance(settings["lora_alpha"], int)
    assert settings["base_model_name_or_path"] == "base/name"
