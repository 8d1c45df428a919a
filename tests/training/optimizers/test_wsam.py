"""WSAM against its loss, against SAM, and against another implementation of it."""

from typing import Any

import pytest
import torch

from tests.training.optimizers.quadratic import closure_of, distance, make, parameters
from tests.training.optimizers.test_sam import run
from yearling.training.optimizers import optimizers
from yearling.training.optimizers.wsam import penalty_weight

KIND = optimizers.get("wsam")
PLAIN_SGD: dict[str, Any] = {"lr": 0.01, "base": "sgd", "momentum": 0.0, "rho": 0.3}


def both_slopes(rho: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Gradients of the loss at the starting weights and at the worst point nearby."""
    weights = parameters()
    slopes = torch.autograd.grad(distance(weights), weights)
    length = torch.cat([slope.reshape(-1) for slope in slopes]).norm()
    pairs = zip(weights, slopes, strict=True)
    worst = [torch.nn.Parameter(w.detach() + rho * slope / length) for w, slope in pairs]
    return list(slopes), list(torch.autograd.grad(distance(worst), worst))


@pytest.mark.parametrize("is_decoupled", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.5, 0.9])
def test_plain_descent_follows_the_loss(gamma: float, is_decoupled: bool) -> None:
    weights = parameters()
    run(make(KIND, weights, **PLAIN_SGD, gamma=gamma, is_decoupled=is_decoupled), weights, 1)
    share = gamma / (1 - gamma)  # L + share * (L_SAM - L)
    for weight, start, here, there in zip(weights, parameters(), *both_slopes(0.3), strict=True):
        expected = start - 0.01 * (here + share * (there - here))
        torch.testing.assert_close(weight, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("base", ["sgd", "adamw"])
def test_half_is_sam_when_coupled(base: str) -> None:
    mine, theirs = parameters(), parameters()
    options = {"lr": 0.01, "base": base, "rho": 0.3}
    run(make(KIND, mine, **options, gamma=0.5, is_decoupled=False), mine, 5)
    run(make(optimizers.get("sam"), theirs, **options), theirs, 5)
    for one, two in zip(mine, theirs, strict=True):
        assert (one - two).abs().max() <= 1e-6


def test_zero_is_the_base_and_needs_no_second_gradient() -> None:
    mine, theirs = parameters(), parameters()
    ours, base = (
        make(KIND, mine, lr=0.01, gamma=0.0),
        torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.0),
    )
    calls: list[float] = []
    closure = closure_of(mine, calls)
    for _ in range(3):
        closure()
        ours.step(closure)
    run(base, theirs, 3)
    assert len(calls) == 3
    assert all(torch.equal(one, two) for one, two in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("is_decoupled", [False, True])
@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_steps_equal_pytorch_optimizers(base: str, is_decoupled: bool, is_adaptive: bool) -> None:
    library = pytest.importorskip("pytorch_optimizer")
    mine, theirs = parameters(), parameters()
    options = {"lr": 0.005, "base": base, "rho": 0.3, "gamma": 0.8}
    ours = make(KIND, mine, **options, is_decoupled=is_decoupled, is_adaptive=is_adaptive)
    kinds = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}
    arguments: dict[str, Any] = {"lr": 0.005, "weight_decay": 0.0}
    arguments |= {"momentum": 0.9} if base == "sgd" else {}
    other = library.WSAM(
        torch.nn.ParameterList(theirs), theirs, kinds[base], rho=0.3, gamma=0.8,
        adaptive=is_adaptive, decouple=is_decoupled, **arguments,
    )  # fmt: skip
    run(ours, mine, 5)
    run(other, theirs, 5)
    for one, two in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-5, atol=2e-6)


def test_moments_of_the_base_see_the_plain_gradient_when_decoupled() -> None:
    states = {}
    for is_decoupled in (True, False):
        weights = parameters()
        optimizer = make(KIND, weights, lr=0.01, rho=0.3, is_decoupled=is_decoupled)
        run(optimizer, weights, 1)
        states[is_decoupled] = optimizer.state[weights[0]]["exp_avg"] / 0.1
    here, there = both_slopes(0.3)
    torch.testing.assert_close(states[True], here[0])
    torch.testing.assert_close(states[False], here[0] + penalty_weight(0.9) * (there[0] - here[0]))


def test_each_group_moves_at_its_own_rate() -> None:
    still, moving = parameters()[:1], parameters()[1:2]
    groups = [{"params": still, "lr": 0.0}, {"params": moving}]
    optimizer = KIND.build(groups, KIND.config(lr=0.01, base="sgd"))

    def closure() -> None:
        for weight in still + moving:
            weight.grad = weight.detach() ** 3

    closure()
    optimizer.step(closure)
    assert torch.equal(still[0], parameters()[0])
    assert not torch.equal(moving[0], parameters()[1])
