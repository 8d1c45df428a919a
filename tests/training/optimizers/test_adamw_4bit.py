"""AdamW in four bits: close to AdamW, exactly the algorithm, and nothing without its map."""

import copy

import pytest
import torch

from tests.training.optimizers.quadratic import distance, make, parameters, train
from yearling.core.config import load_config
from yearling.core.errors import ConfigError
from yearling.training.moments import BlockCodes, RankOneCodes, dynamic_exponent_map, linear_map
from yearling.training.optimizers import optimizers

KIND = optimizers.get("adamw_4bit")
OPTIONS = {"lr": 0.03, "weight_decay": 0.1, "beta1": 0.8, "beta2": 0.95, "epsilon": 1e-6}


def test_steps_are_the_papers_algorithm_written_out() -> None:
    weights = parameters()[:1]
    twin = weights[0].detach().clone()
    optimizer = make(KIND, weights, **OPTIONS)
    first, second = BlockCodes(dynamic_exponent_map()), RankOneCodes(linear_map())
    mean, square = torch.zeros_like(twin), torch.zeros_like(twin)
    for step in range(1, 5):
        gradient = torch.randn(twin.shape, generator=torch.Generator().manual_seed(step))
        weights[0].grad = gradient
        optimizer.step()
        mean = 0.8 * mean + 0.2 * gradient
        square = 0.95 * square + 0.05 * gradient**2
        root = (square / (1 - 0.95**step)).sqrt() + 1e-6
        twin = twin - 0.03 * 0.1 * twin - 0.03 * (mean / (1 - 0.8**step)) / root
        torch.testing.assert_close(weights[0].detach(), twin, rtol=1e-5, atol=1e-6)
        # Codes of both must agree, or one rounding would hide the next step's error.
        twin = weights[0].detach().clone()
        state = optimizer.state[weights[0]]
        kept = {key.removeprefix("first."): value for key, value in state.items()}
        torch.testing.assert_close(first.restore(kept, twin.shape), _again(first, mean))
        kept = {key.removeprefix("second."): value for key, value in state.items()}
        torch.testing.assert_close(second.restore(kept, twin.shape), _again(second, square))
        mean, square = _again(first, mean), _again(second, square)


def _again(store, moment):
    return store.restore(store.compress(moment), moment.shape)


def test_small_tensors_and_chosen_groups_step_exactly_as_adamw() -> None:
    mine, theirs = parameters(), parameters()
    groups = [{"params": mine[:2], "is_compressed": False}, {"params": mine[2:]}]
    ours = KIND.build(groups, KIND.config(**OPTIONS))
    adamw = make(optimizers.get("adamw"), theirs, **OPTIONS)
    train(KIND, ours, mine, 5)
    train(KIND, adamw, theirs, 5)
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert "first.values" in ours.state[mine[0]]


def test_moments_lie_in_bytes_of_two_codes() -> None:
    weights = parameters()
    optimizer = make(KIND, weights, lr=0.01)
    train(KIND, optimizer, weights, 1)
    state = optimizer.state[weights[0]]
    assert state["first.codes"].dtype == state["second.codes"].dtype == torch.uint8
    assert len(state["first.codes"]) == weights[0].numel() // 2
    assert len(state["second.scale"]) == sum(weights[0].shape)


def test_a_zero_in_the_map_throws_weights_away() -> None:
    moved = {}
    for name in ("linear_without_zero", "linear_with_zero"):
        weight = torch.nn.Parameter(torch.zeros(64, 64))
        optimizer = make(KIND, [weight], lr=0.01, second_map=name)
        weight.grad = torch.full((64, 64), 0.15) + 0.85 * torch.eye(64)
        optimizer.step()
        weight.grad = torch.zeros(64, 64)  # the first moment still pushes; what divides it?
        optimizer.step()
        moved[name] = weight.abs().max().item()
    assert moved["linear_without_zero"] < 0.02
    assert moved["linear_with_zero"] > 1000


def test_half_precision_weights_move_by_float32_moments() -> None:
    weights = parameters(dtype=torch.bfloat16)
    optimizer = make(KIND, weights, lr=0.05)
    before = distance(weights).item()
    train(KIND, optimizer, weights, 60)
    assert distance(weights).item() < before / 4
    assert optimizer.state[weights[2]]["first.values"].dtype == torch.float32


def test_loaded_state_has_memory_of_its_own() -> None:
    weights = parameters()
    first = make(KIND, weights, lr=0.05)
    train(KIND, first, weights, 2)
    state = copy.deepcopy(first.state[weights[0]])
    twins = copy.deepcopy(weights)
    second = make(KIND, twins, lr=0.05)
    second.load_state_dict(first.state_dict())
    train(KIND, second, twins, 2)
    assert all(torch.equal(state[key], first.state[weights[0]][key]) for key in state)


def test_an_unknown_map_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"second_map=square"):
        load_config(KIND.config, overrides=["second_map=square"])
