"""Lanes: two micro-batches at once, with the losses, gradients and messages of one at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from threading import Barrier, get_ident
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.training.methods.tiny_models import row, sequence, tiny_decoder
from tests.training.toy import weights
from yearling.core.errors import NonFiniteError
from yearling.data.encoded import EncodedRow
from yearling.models.torch_decoder import labelled_losses
from yearling.training.batch import PackedBatch
from yearling.training.batches import BatchSize, TokenBatches
from yearling.training.config import TrainConfig
from yearling.training.lanes import has_lanes, in_lanes, tokens_at_once
from yearling.training.loop import Hooks, LoopConfig, Optimization, StepReport, run_loop
from yearling.training.objective import Loss, Objective, Update
from yearling.training.optimizers import optimizers

_LENGTHS = (5, 20, 9, 33, 14, 26)
_ADAPTED = {"model": "smollm2", "data": "rows.jsonl", "output": "run", "threads": 2}
_BARRIER_SECONDS = 20


def rows_of(lengths: Sequence[int]) -> list[EncodedRow]:
    random = np.random.default_rng(1)
    return [row(sequence(random.integers(0, 64, length).tolist())) for length in lengths]


def source_of(*, has_lanes: bool, lengths: Sequence[int] = _LENGTHS) -> TokenBatches:
    size = BatchSize(1_000, 80, has_lanes=has_lanes)
    return TokenBatches(rows_of(lengths), size, seed=2)


def objective_of(
    around: Callable[[PackedBatch, Loss], Loss] = lambda batch, loss: loss,
) -> Objective[PackedBatch]:
    model = tiny_decoder()

    def loss(batch: PackedBatch) -> Loss:
        hidden = model(batch.tokens, batch.segments)
        total = labelled_losses(model, hidden, batch.labels).sum()
        return around(batch, Loss(total, {"tokens": float(batch.num_labels)}))

    update = Update("loss", dict(model.named_parameters()), loss, lambda b: float(b.num_labels))
    return Objective({"model": model}, [update])


def trained(
    objective: Objective[PackedBatch], *, has_lanes: bool, optimizer: str = "adamw"
) -> tuple[list[StepReport], Mapping[str, torch.Tensor]]:
    kind = optimizers.get(optimizer)
    config = kind.config(lr=1e-3)
    optimization = Optimization(
        lambda update: kind.build([{"params": list(update.parameters.values())}], config),
        kind.uses_closure,
    )
    reports: list[StepReport] = []
    hooks: Hooks[PackedBatch] = Hooks(on_step=reports.append, num_tokens=lambda b: len(b.tokens))
    source = source_of(has_lanes=has_lanes)
    run_loop(objective, source, optimization, LoopConfig(5), hooks)
    return reports, weights(objective)


@pytest.mark.parametrize("optimizer", ["adamw", "wsam"])
def test_a_run_in_lanes_is_the_run_without(optimizer: str) -> None:
    """With a closure too: it asks for the gradient again, at other weights."""
    plain, plain_weights = trained(objective_of(), has_lanes=False, optimizer=optimizer)
    with in_lanes(objective_of()) as objective:
        laned, laned_weights = trained(objective, has_lanes=True, optimizer=optimizer)
    for one, other in zip(plain, laned, strict=True):
        assert other.updates["loss"].loss == pytest.approx(one.updates["loss"].loss, rel=1e-5)
        assert other.updates["loss"].metrics == pytest.approx(one.updates["loss"].metrics)
    for name, value in plain_weights.items():
        torch.testing.assert_close(laned_weights[name], value, rtol=1e-4, atol=1e-5)


def test_two_micro_batches_are_computed_at_the_same_time_each_with_half_of_the_threads() -> None:
    torch.set_num_threads(4)
    together, seen = Barrier(2), set()

    def waiting(batch: PackedBatch, loss: Loss) -> Loss:
        seen.add((get_ident(), torch.get_num_threads()))
        together.wait(_BARRIER_SECONDS)  # for the other lane's, which only comes beside this one
        return loss

    batches = [replace(batch, lane=lane) for lane, batch in enumerate(lane_batches()[:2])]
    with in_lanes(objective_of(waiting)) as objective:
        (ready,) = objective.rounds(batches)
        for batch in ready:
            objective.updates[0].loss(batch)
    assert len(seen) == 2
    assert {threads for _, threads in seen} == {2}
    assert torch.get_num_threads() == 4


def lane_batches() -> list[PackedBatch]:
    return [b for b in source_of(has_lanes=True).next_step() if b.lane is not None]


def test_batches_without_a_lane_and_those_of_validation_are_computed_by_the_caller() -> None:
    callers: list[int] = []

    def noted(batch: PackedBatch, loss: Loss) -> Loss:
        callers.append(get_ident())
        return loss

    batch = lane_batches()[0]
    with in_lanes(objective_of(noted)) as objective:
        list(objective.rounds([batch]))
        objective.updates[0].loss(replace(batch, lane=None))
        with torch.no_grad():
            objective.updates[0].loss(batch)
    assert callers == [get_ident()] * 2


def test_rows_of_the_micro_batch_at_fault_are_named() -> None:
    poisoned = lane_batches()[1]

    def spoil(batch: PackedBatch, loss: Loss) -> Loss:
        is_it = torch.equal(batch.tokens, poisoned.tokens)
        return replace(loss, total=loss.total * float("nan")) if is_it else loss

    before = weights(objective_of())
    with in_lanes(objective_of(spoil)) as objective:
        with pytest.raises(NonFiniteError) as caught:
            trained(objective, has_lanes=True)
        assert all(torch.equal(before[name], value) for name, value in weights(objective).items())
    named = ", ".join(str(name) for name in poisoned.row_ids)
    assert f"rows: {named}." in str(caught.value)


def test_error_in_a_lane_reaches_the_caller() -> None:
    def fail(batch: PackedBatch, loss: Loss) -> Loss:
        raise MemoryError("no room")

    with in_lanes(objective_of(fail)) as objective, pytest.raises(MemoryError, match="no room"):
        trained(objective, has_lanes=True)


def test_objectives_of_several_updates_are_refused() -> None:
    objective = objective_of()
    double = replace(objective, updates=[*objective.updates] * 2)
    with pytest.raises(ValueError, match="one update, not 2"), in_lanes(double):
        pass


@given(st.lists(st.integers(2, 60), min_size=1, max_size=30), st.integers(20, 90))
@settings(max_examples=60, deadline=None)
def test_lanes_share_the_rows_that_fit_into_half_of_the_budget(
    lengths: list[int], budget: int
) -> None:
    size = BatchSize(10_000, budget, has_lanes=True)
    batches = TokenBatches(rows_of(lengths), size).next_step()
    assert sorted(n for b in batches for n in b.segments.lengths) == sorted(lengths)
    assert tokens_at_once(batches) <= max(budget, *lengths)
    in_lane = [[b for b in batches if b.lane == lane] for lane in (0, 1)]
    assert all(len(b.tokens) <= budget // 2 for lane in in_lane for b in lane)
    costs = [sum(len(b.tokens) + b.num_labels / 4 for b in lane) for lane in in_lane]
    assert max(costs) <= 0.58 * sum(costs) + 1e-9


def test_halves_are_even() -> None:
    """Longest first to the emptier side would give 18 and 16."""
    size = BatchSize(10_000, 100, has_lanes=True)
    batches = TokenBatches(rows_of([8, 7, 6, 5, 4, 4]), size).next_step()
    assert [len(b.tokens) for b in batches] == [17, 17]
    assert [b.lane for b in batches] == [0, 1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, True),
        ({"threads": 1}, False),
        ({"precision": "bfloat16"}, False),
        ({"adapter": {"name": "lora", "dropout": 0.1}}, False),
        ({"adapter": None}, False),
        ({"method": "dpo"}, False),
        ({"device": "meta"}, False),
    ],
)
def test_lanes_are_for_adapters_in_float32_that_compute_without_chance(
    change: dict[str, Any], expected: bool
) -> None:
    config = TrainConfig.model_validate({**_ADAPTED, "adapter": "lora", **change})
    assert has_lanes(config, world=1) is expected
    assert not has_lanes(config, world=2)
