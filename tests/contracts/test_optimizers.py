"""What every registered optimizer promises."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.training.optimizers.quadratic import closure_of, distance, make, parameters, train
from yearling.training.optimizers import optimizers

pytestmark = pytest.mark.slow
each_optimizer = pytest.mark.parametrize("name", optimizers.names())
LR = 0.05


def tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for inner in value.values() for tensor in tensors_in(inner)]
    return []


@each_optimizer
def test_optimizer_minimises_a_quadratic(name: str) -> None:
    kind, weights = optimizers.get(name), parameters()
    before = distance(weights).item()
    train(kind, make(kind, weights, lr=LR), weights, 150)
    assert distance(weights).item() < before / 20


@each_optimizer
def test_zero_rate_moves_nothing(name: str) -> None:
    kind, weights = optimizers.get(name), parameters()
    before = copy.deepcopy(weights)
    train(kind, make(kind, weights, lr=0.0, weight_decay=0.1), weights, 2)
    assert all(torch.equal(now, then) for now, then in zip(weights, before, strict=True))


@each_optimizer
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_survives_a_round_trip_to_the_bit(name: str, dtype: torch.dtype) -> None:
    kind, weights = optimizers.get(name), parameters(dtype=dtype)
    first = make(kind, weights, lr=LR)
    train(kind, first, weights, 3)
    twins = copy.deepcopy(weights)
    second = make(kind, twins, lr=LR)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for mine, theirs in zip(weights, twins, strict=True):
        one, other = tensors_in(first.state[mine]), tensors_in(second.state[theirs])
        assert len(one) == len(other)
        assert all(
            a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True)
        )
    train(kind, first, weights, 3)
    train(kind, second, twins, 3)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(weights, twins, strict=True))


@each_optimizer
def test_state_takes_the_bytes_that_were_announced(name: str) -> None:
    kind = optimizers.get(name)
    config = kind.config(lr=LR)
    weights = [torch.nn.Parameter(torch.randn(shape)) for shape in ((512, 300), (70_001,), (65,))]
    optimizer = kind.build([{"params": weights}], config)
    for weight in weights:
        weight.grad = torch.randn_like(weight)

    def again() -> None:
        for weight in weights:
            weight.grad = torch.randn_like(weight)

    optimizer.step(again) if kind.uses_closure else optimizer.step()
    for weight in weights:
        taken = sum(tensor.nbytes for tensor in tensors_in(_own(optimizer.state[weight])))
        announced = kind.state_bytes(weight, config)
        assert math.isclose(taken, announced, rel_tol=0.05, abs_tol=16), tuple(weight.shape)


def _own(state: dict[str, Any]) -> dict[str, Any]:
    """Leave out the maps that bitsandbytes shares between all tensors."""
    return {key: value for key, value in state.items() if not key.startswith("qmap")}


@each_optimizer
def test_second_gradient_is_computed_when_and_only_when_announced(name: str) -> None:
    kind, weights = optimizers.get(name), parameters()
    optimizer = make(kind, weights, lr=LR)
    calls: list[float] = []
    closure = closure_of(weights, calls)
    closure()
    optimizer.step(closure) if kind.uses_closure else optimizer.step()
    assert len(calls) == (2 if kind.uses_closure else 1)
    if kind.uses_closure:
        assert calls[1] > calls[0], "the second gradient is that of a worse point"


@each_optimizer
def test_a_schedule_changes_the_rate(name: str) -> None:
    kind, weights = optimizers.get(name), parameters()
    optimizer = make(kind, weights, lr=LR)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0 if step else 1.0)
    train(kind, optimizer, weights, 1)
    schedule.step()
    before = copy.deepcopy(weights)
    train(kind, optimizer, weights, 2)
    assert all(torch.equal(now, then) for now, then in zip(weights, before, strict=True))


@each_optimizer
def test_groups_keep_their_own_rate_through_a_round_trip(name: str) -> None:
    kind = optimizers.get(name)
    still, moving = parameters()[:1], parameters(1)[:1]
    groups = [{"params": still, "lr": 0.0}, {"params": moving}]
    optimizer = kind.build(groups, kind.config(lr=LR))
    optimizer.load_state_dict(optimizer.state_dict())
    before = copy.deepcopy(still + moving)

    def gradient() -> None:
        for weight in still + moving:
            weight.grad = weight.detach().clone()

    gradient()
    optimizer.step(gradient) if kind.uses_closure else optimizer.step()
    assert torch.equal(before[0], still[0])
    assert not torch.equal(before[1], moving[0])


@each_optimizer
def test_parameters_without_a_gradient_stay(name: str) -> None:
    kind, weights = optimizers.get(name), parameters()
    optimizer = make(kind, weights, lr=LR, weight_decay=0.1)
    before = weights[1].detach().clone()

    def gradient() -> None:
        for weight in (weights[0], weights[2]):
            weight.grad = weight.detach().clone()

    gradient()
    optimizer.step(gradient) if kind.uses_closure else optimizer.step()
    assert torch.equal(weights[1], before)


@each_optimizer
def test_state_goes_through_torch_distributed_checkpoint(name: str) -> None:
    if name == "adamw_8bit":
        pytest.skip("bitsandbytes nests its state, which torch's flattening does not take")
    from torch.distributed.checkpoint.state_dict import (
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    kind = optimizers.get(name)

    def fresh() -> tuple[torch.nn.Module, list[torch.nn.Parameter], torch.optim.Optimizer]:
        weights = parameters()
        return torch.nn.ParameterList(weights), weights, make(kind, weights, lr=LR)

    model, weights, first = fresh()
    train(kind, first, weights, 2)
    twin, twins, second = fresh()
    twin.load_state_dict(model.state_dict())
    state = copy.deepcopy(get_optimizer_state_dict(model, first))
    set_optimizer_state_dict(twin, second, state)
    train(kind, first, weights, 2)
    train(kind, second, twins, 2)
    assert all(torch.equal(a, b) for a, b in zip(weights, twins, strict=True))
