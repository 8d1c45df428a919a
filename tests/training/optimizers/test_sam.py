"""SAM against its definition and against another implementation of it."""

from typing import Any

import pytest
import torch

from tests.training.optimizers.quadratic import closure_of, distance, make, parameters
from yearling.core.errors import TrainingError
from yearling.training.optimizers import optimizers

KIND = optimizers.get("sam")
OPTIONS: dict[str, Any] = {"lr": 0.01, "base": "sgd", "momentum": 0.9, "weight_decay": 0.01}


def run(optimizer: torch.optim.Optimizer, weights: list[torch.nn.Parameter], steps: int) -> None:
    closure = closure_of(weights, [])
    for _ in range(steps):
        closure()
        optimizer.step(closure)


def test_one_step_is_the_definition() -> None:
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    slopes = torch.autograd.grad(distance(weights), weights)
    length = torch.cat([slope.reshape(-1) for slope in slopes]).norm()
    pairs = zip(before, slopes, strict=True)
    worst = [torch.nn.Parameter(value + 0.5 * slope / length) for value, slope in pairs]
    there = torch.autograd.grad(distance(worst), worst)
    run(make(KIND, weights, lr=0.1, base="sgd", momentum=0.0, rho=0.5), weights, 1)
    for weight, value, slope in zip(weights, before, there, strict=True):
        torch.testing.assert_close(weight.detach(), value - 0.1 * slope)


@pytest.mark.parametrize("is_adaptive", [False, True])
@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_steps_equal_pytorch_optimizers(base: str, is_adaptive: bool) -> None:
    library = pytest.importorskip("pytorch_optimizer")
    mine, theirs = parameters(), parameters()
    options = {**OPTIONS, "base": base}
    ours = make(KIND, mine, **options, rho=0.3, is_adaptive=is_adaptive)
    arguments = {"lr": 0.01, "weight_decay": 0.01}
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    arguments |= {"momentum": 0.9} if base == "sgd" else {}
    other = library.SAM(theirs, kinds[base], rho=0.3, adaptive=is_adaptive, **arguments)
    run(ours, mine, 6)
    run(other, theirs, 6)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-6)


def test_radius_of_zero_is_the_base() -> None:
    mine, theirs = parameters(), parameters()
    run(make(KIND, mine, lr=0.01, rho=0.0), mine, 3)
    run(torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0), theirs, 3)
    assert all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))


def test_weights_come_back_when_the_second_gradient_fails() -> None:
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    optimizer = make(KIND, weights, lr=0.01)
    closure_of(weights, [])()

    def failing() -> None:
        assert not torch.equal(weights[0], before[0])
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        optimizer.step(failing)
    assert all(torch.equal(now, then) for now, then in zip(weights, before, strict=True))


def test_a_step_without_a_second_gradient_is_refused() -> None:
    weights = parameters()
    optimizer = make(KIND, weights, lr=0.01)
    closure_of(weights, [])()
    with pytest.raises(TrainingError, match=r"second gradient: call step\(closure\)"):
        optimizer.step()


def test_where_the_gradient_is_zero_there_is_nowhere_to_climb() -> None:
    weights = parameters()
    before = [weight.detach().clone() for weight in weights]
    optimizer = make(KIND, weights, lr=0.01)
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    optimizer.step()  # no closure is needed, and nothing is divided by the gradient's length
    assert all(torch.equal(now, then) for now, then in zip(weights, before, strict=True))
