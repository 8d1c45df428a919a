"""QLoRA: a base of four bits that training never changes."""

import pytest
import torch

from tests.models.torch_variants import VARIANTS, decoder
from yearling.core.errors import ConfigError
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.adapters import adapters
from yearling.training.adapters.qlora import QLoraConfig, quantise_base
from yearling.training.nf4 import NF4Linear

QLORA = adapters.get("qlora")
TOKENS, SEGMENTS = torch.arange(20), Segments([13, 7])


def attached(**options: object) -> TorchDecoder:
    model = decoder(VARIANTS["plain"])
    QLORA.attach(model, QLoraConfig(**options), 1)  # type: ignore[arg-type]
    return model


def test_base_is_the_same_to_the_bit_after_training() -> None:
    model = attached(backend="torch")
    learned = {name for name, p in model.named_parameters() if p.requires_grad}
    frozen = {n: v.clone() for n, v in model.state_dict().items() if n not in learned}
    assert sum(name.endswith(".codes") for name in frozen) == 14
    optimizer = torch.optim.AdamW(p for p in model.parameters() if p.requires_grad)
    for _ in range(3):
        optimizer.zero_grad()
        model.logits(model(TOKENS, SEGMENTS)).square().mean().backward()
        optimizer.step()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in frozen.items())


def test_all_linear_layers_but_the_head_become_four_bits() -> None:
    model = decoder(VARIANTS["plain"])
    quantise_base(model, "torch")
    left = {n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    assert left == {"head"}
    assert sum(isinstance(module, NF4Linear) for module in model.modules()) == 14


def test_gradients_are_those_of_the_rounded_weights() -> None:
    model = attached(backend="torch")
    full = decoder(VARIANTS["plain"])
    quantise_base(full, "torch")
    for name, module in list(full.named_modules()):
        if isinstance(module, NF4Linear):
            parent, _, leaf = name.rpartition(".")
            setattr(full.get_submodule(parent), leaf, module.to_linear())
    adapters.get("lora").attach(full, adapters.get("lora").config(), 1)
    gradients = []
    for each in (model, full):
        each.logits(each(TOKENS, SEGMENTS)).square().mean().backward()
        gradients.append([p.grad for p in each.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)


def test_wrong_target_is_refused_before_the_base_changes() -> None:
    model = decoder(VARIANTS["plain"])
    with pytest.raises(ConfigError, match="is no linear layer"):
        QLORA.attach(model, QLoraConfig(targets=("nothing",)), 1)
    assert not any(isinstance(module, NF4Linear) for module in model.modules())
