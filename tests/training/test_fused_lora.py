"""LoRA as one operation: PEFT's numbers and gradients, and PEFT's own way where it differs."""

import peft
import pytest
import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn

from yearling.training import fused_lora
from yearling.training.fused_lora import FusedLoraLinear, lora_linear

ROWS, INPUTS, OUTPUTS, RANK = 5, 8, 6, 3


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("has_bias", [False, True])
def test_gradients_are_those_of_the_formula(has_bias: bool) -> None:
    weight, bias = random(OUTPUTS, INPUTS), random(OUTPUTS) if has_bias else None
    values, first, second = (
        random(*shape, seed=number).requires_grad_()
        for number, shape in enumerate([(ROWS, INPUTS), (RANK, INPUTS), (OUTPUTS, RANK)])
    )
    result = lora_linear(values, (weight, bias), (first, second), 0.5)
    expected = values @ (weight + 0.5 * second @ first).T + (0 if bias is None else bias)
    torch.testing.assert_close(result, expected)
    assert torch.autograd.gradcheck(
        lambda x, a, b: lora_linear(x, (weight, bias), (a, b), 0.5), (values, first, second)
    )


@pytest.mark.parametrize("is_onednn", [False, True])
def test_both_products_give_the_same_numbers(
    is_onednn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_onednn and not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch has no oneDNN")
    monkeypatch.setattr(fused_lora, "_has_faster_product", lambda: is_onednn)
    weight, bias = random(192, 576), random(192)
    exact = [random(300, 576), random(16, 576, seed=1), random(192, 16, seed=2)]
    exact = [values.requires_grad_() for values in exact]
    rounded = [values.detach().float().requires_grad_() for values in exact]
    for (values, first, second), base in (
        (exact, (weight, bias)),
        (rounded, (weight.float(), bias.float())),
    ):
        lora_linear(values, base, (first, second), 0.5).square().sum().backward()
    for ours, wanted in zip(rounded, exact, strict=True):
        assert ours.grad is not None
        assert wanted.grad is not None
        error = (ours.grad - wanted.grad).norm() / wanted.grad.norm()
        assert error < 1e-5


def layer(*, is_fused: bool, dropout: float = 0.0) -> tuple[nn.Module, Linear]:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(INPUTS, OUTPUTS)).requires_grad_(requires_grad=False)
    settings = peft.LoraConfig(
        r=RANK, lora_alpha=6, lora_dropout=dropout, target_modules=["0"], init_lora_weights=False
    )
    if is_fused:
        settings._register_custom_module({nn.Linear: FusedLoraLinear})
    peft.inject_adapter_in_model(settings, model)
    found = model[0]
    assert isinstance(found, FusedLoraLinear) is is_fused
    assert isinstance(found, Linear)
    return model, found


def gradients(*, is_fused: bool) -> list[Tensor]:
    model, _ = layer(is_fused=is_fused)
    values = random(ROWS, INPUTS).float().requires_grad_()
    result = model(values)
    result.square().sum().backward()
    learned = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(gradient is not None for gradient in learned)
    return [result.detach(), values.grad, *learned]  # type: ignore[list-item]


def test_layer_is_pefts() -> None:
    for ours, theirs in zip(gradients(is_fused=True), gradients(is_fused=False), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("case", ["disabled", "merged", "dropout", "learning base", "autocast"])
def test_other_cases_compute_as_peft_does(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one operation covers one case; every other goes PEFT's way, which is recorded here."""
    model, found = layer(is_fused=True, dropout=0.5 if case == "dropout" else 0.0)
    calls: list[str] = []
    usual = Linear.forward
    monkeypatch.setattr(Linear, "forward", lambda *a, **k: (calls.append(case), usual(*a, **k))[1])
    values = random(ROWS, INPUTS).float()
    model(values)
    assert calls == (["dropout"] if case == "dropout" else [])
    if case == "disabled":
        found.enable_adapters(False)
    elif case == "merged":
        found.merge()
    elif case == "learning base":
        found.base_layer.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        model(values)
    assert calls[-1] == case
