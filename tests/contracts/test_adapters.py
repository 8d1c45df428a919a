"""What every adapter promises, whoever registers it."""

from pathlib import Path

import pytest
import torch

from tests.models.torch_variants import VARIANTS, decoder
from yearling.core.errors import UnsupportedError
from yearling.models.torch_decoder import Segments, TorchDecoder
from yearling.training.adapters import adapters

TOKENS = torch.randint(50, (40,), generator=torch.Generator().manual_seed(5))
SEGMENTS = Segments([29, 11])


@pytest.fixture(params=adapters.names())
def kind(request):
    return adapters.get(request.param)


def base() -> TorchDecoder:
    return decoder(VARIANTS["plain"])


def attached(kind, *, seed: int = 1) -> TorchDecoder:
    made = base()
    kind.attach(made, kind.config(), seed)
    return made


def moved(model: TorchDecoder) -> TorchDecoder:
    """The model after something was learned."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise * 0.05)
    return model


def logits(model: TorchDecoder) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model.logits(model(TOKENS, SEGMENTS))


def test_adapter_says_what_it_is(kind) -> None:
    assert kind.summary.endswith(".")
    assert "arXiv:" in kind.source
    assert all(field.description for field in kind.config.model_fields.values())


def test_adapter_trains_its_parameters_and_no_others(kind) -> None:
    names = {name for name, _ in base().named_parameters()}
    model = attached(kind)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learned = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert learned
    assert not learned.keys() & names
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.train()
    model.logits(model(TOKENS, SEGMENTS)).square().mean().backward()
    optimizer.step()
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed
    assert changed <= learned.keys()


def test_adapter_begins_the_same_for_a_seed(kind) -> None:
    first, again, other = (attached(kind, seed=seed) for seed in (4, 4, 5))

    def values(model: TorchDecoder) -> list[torch.Tensor]:
        return [p.detach() for p in model.parameters() if p.requires_grad]

    assert all(map(torch.equal, values(first), values(again)))
    assert not all(map(torch.equal, values(first), values(other)))


def test_disabled_adapter_is_the_base(kind) -> None:
    model = attached(kind)
    with kind.disabled(model):
        before = logits(model)
    moved(model)
    with kind.disabled(model) as plain:
        assert torch.equal(logits(plain), before)
    assert not torch.allclose(logits(model), before, atol=1e-2)
    assert all(p.requires_grad for n, p in moved(model).named_parameters() if "lora_" in n)


def test_saved_adapter_loads_again(kind, tmp_path: Path) -> None:
    model = moved(attached(kind))
    kind.save(model, kind.config(), tmp_path / "adapter", "made-up")
    assert {file.name for file in (tmp_path / "adapter").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    again = attached(kind, seed=2)
    assert not torch.equal(logits(again), logits(model))
    kind.load(again, tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))


def test_merged_adapter_computes_the_same_or_says_that_it_cannot(kind) -> None:
    model = moved(attached(kind))
    before, names = logits(model), set(base().state_dict())
    if kind is adapters.get("p_tuning"):
        with pytest.raises(UnsupportedError, match="nothing can be merged"):
            kind.merge(model)
        return
    kind.merge(model)
    torch.testing.assert_close(logits(model), before, atol=1e-5, rtol=1e-5)
    assert set(model.state_dict()) == names


def test_adapter_computes_the_same_with_checkpointing(kind) -> None:
    gradients = []
    for uses_checkpointing in (False, True):
        model = moved(attached(kind)).train()
        model.uses_checkpointing = uses_checkpointing
        model.logits(model(TOKENS, SEGMENTS)).square().mean().backward()
        gradients.append([p.grad for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(*gradients)
