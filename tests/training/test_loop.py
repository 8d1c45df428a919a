"""The loop: accumulation, clipping, the finite check, closures, averages, validation, resume."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.methods.tiny_models import row, sequence, tiny_decoder
from tests.training.toy import Points, PointSource, regression, same, sgd, weights
from yearling.core.errors import CheckpointError, NonFiniteError
from yearling.data.encoded import EncodedRow
from yearling.models.torch_decoder import labelled_losses
from yearling.training.batch import PackedBatch, pack_rows
from yearling.training.loop import (
    Hooks,
    Loop,
    LoopConfig,
    Optimization,
    StepReport,
    ValidationReport,
    run_loop,
)
from yearling.training.objective import Loss, Objective, Update
from yearling.training.schedules import ScheduleConfig


class PackedSource:
    """The same rows in every step, packed as given."""

    def __init__(self, rows: Sequence[EncodedRow], groups: Sequence[Sequence[int]]) -> None:
        self._batches = [pack_rows([rows[number] for number in group]) for group in groups]

    def next_step(self) -> list[PackedBatch]:
        return self._batches

    def row_names(self, batch: Any) -> list[str]:
        return [str(name) for name in batch.row_ids]

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        pass


def language_objective() -> Objective[PackedBatch]:
    model = tiny_decoder()

    def loss(batch: PackedBatch) -> Loss:
        hidden = model(batch.tokens, batch.segments)
        return Loss(labelled_losses(model, hidden, batch.labels).sum())

    update = Update("loss", dict(model.named_parameters()), loss, lambda b: float(b.num_labels))
    return Objective({"model": model}, [update])


def language_run(groups: Sequence[Sequence[int]]) -> tuple[list[StepReport], dict[str, Any]]:
    """Rows of very unequal numbers of labels, split as given."""
    random = np.random.default_rng(1)
    lengths, prompts = (5, 20, 9, 33), (4, 2, 1, 30)
    rows = [
        row(sequence(random.integers(0, 64, length).tolist(), prompt=prompt))
        for length, prompt in zip(lengths, prompts, strict=True)
    ]
    objective, reports = language_objective(), list[StepReport]()
    optimization = Optimization(
        lambda update: torch.optim.AdamW(update.parameters.values(), lr=1e-3)
    )
    hooks: Hooks[PackedBatch] = Hooks(on_step=reports.append, num_tokens=lambda b: len(b.tokens))
    run_loop(objective, PackedSource(rows, groups), optimization, LoopConfig(6), hooks)
    return reports, weights(objective)


@pytest.mark.parametrize("groups", [[[0], [1], [2], [3]], [[0, 1], [2, 3]], [[3, 1], [0], [2]]])
def test_loss_is_the_same_however_rows_are_split(groups: list[list[int]]) -> None:
    whole, whole_weights = language_run([[0, 1, 2, 3]])
    split, split_weights = language_run(groups)
    for one, other in zip(whole, split, strict=True):
        assert one.updates["loss"].loss == pytest.approx(other.updates["loss"].loss, abs=1e-5)
        assert one.updates["loss"].grad_norm == pytest.approx(
            other.updates["loss"].grad_norm, rel=1e-4
        )
    for name, value in whole_weights.items():
        torch.testing.assert_close(split_weights[name], value, atol=2e-5, rtol=0)
    assert whole[0].tokens == split[0].tokens == 67


def test_loss_falls_and_the_report_counts() -> None:
    reports: list[StepReport] = []
    result = run_loop(
        regression(), PointSource(), sgd(), LoopConfig(30), Hooks(on_step=reports.append)
    )
    losses = [report.updates["loss"].loss for report in reports]
    assert losses[-1] < losses[0] / 10
    assert [report.step for report in reports] == list(range(1, 31))
    assert (result.step, result.reason, result.loss) == (30, "max_steps", losses[-1])
    assert reports[-1].seconds >= sum(report.step_seconds for report in reports) * 0.99


def test_gradient_is_the_mean_over_all_units_of_the_step() -> None:
    """Micro-batches of 3 and 1 points: a mean of means would weigh the last point threefold."""
    by_hand = regression()
    points = PointSource((4,)).next_step()[0]
    (by_hand.updates[0].loss(points).total / 4).backward()
    expected = [p.detach() - 0.1 * p.grad for p in by_hand.updates[0].parameters.values()]
    objective = regression()
    plain = Optimization(lambda u: torch.optim.SGD(u.parameters.values(), lr=0.1))
    run_loop(objective, PointSource((3, 1)), plain, LoopConfig(1, clip=None))
    for found, wanted in zip(objective.updates[0].parameters.values(), expected, strict=True):
        torch.testing.assert_close(found.detach(), wanted)


def test_clip_shortens_the_gradient_and_reports_its_length_before() -> None:
    def moved(clip: float | None) -> tuple[float, float]:
        objective, reports = regression(), list[StepReport]()
        before = weights(objective)
        plain = Optimization(lambda u: torch.optim.SGD(u.parameters.values(), lr=1.0))
        config = LoopConfig(1, clip=clip)
        run_loop(objective, PointSource(), plain, config, Hooks(on_step=reports.append))
        change = [before[name] - value for name, value in weights(objective).items()]
        length = math.sqrt(sum(float(part.square().sum()) for part in change))
        return length, reports[0].updates["loss"].grad_norm

    free, norm = moved(None)
    assert free == pytest.approx(norm, rel=1e-4)
    assert norm > 1
    clipped, norm_before = moved(0.5)
    assert clipped == pytest.approx(0.5, rel=1e-3)
    assert norm_before == norm


class _NanGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return gradient * math.nan


def poisoned(kind: str, at_step: int = 7) -> tuple[Objective[Points], PointSource]:
    """A run whose second micro-batch of a step has a loss or gradient that is no number."""

    def change(step: int, batch: Points) -> Points:
        is_second = batch.names[0].endswith(".2")
        return (
            Points(batch.inputs, batch.wanted, ["bad"]) if step == at_step and is_second else batch
        )

    objective = regression()
    update = objective.updates[0]

    def loss(batch: Points) -> Loss:
        found = update.loss(batch)
        if list(batch.names) != ["bad"]:
            return found
        changed = {
            "nan": lambda total: total * math.nan,
            "inf": lambda total: total + math.inf,
            "gradient": _NanGradient.apply,
        }
        return Loss(changed[kind](found.total), found.metrics)

    changed = Update(update.name, update.parameters, loss, update.weight)
    return Objective(objective.modules, [changed]), PointSource((2, 2), change=change)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nan", "step 7: loss is nan; rows: bad."),
        ("inf", "step 7: loss is inf; rows: bad."),
        ("gradient", "but the norm of its gradient nan; rows: points:7.0, points:7.1, bad."),
    ],
)
def test_what_is_not_finite_never_reaches_weights_or_checkpoints(kind: str, words: str) -> None:
    objective, source = poisoned(kind)
    clean, _ = poisoned(kind)
    run_loop(clean, PointSource((2, 2)), sgd(), LoopConfig(6))
    reports: list[StepReport] = []
    saved: list[int] = []
    hooks: Hooks[Points] = Hooks(
        on_step=reports.append, save=lambda step, state, is_best: saved.append(step)
    )
    loop = Loop(objective, source, sgd(), LoopConfig(20, checkpoint_every=3), hooks)
    with pytest.raises(NonFiniteError, match="The weights are those of step 6") as error:
        loop.run()
    assert words in str(error.value)
    assert same(weights(objective), weights(clean))
    assert loop.step == 6
    assert saved == [3, 6]
    assert [report.step for report in reports] == list(range(1, 8))
    last = reports[-1].updates["loss"]
    assert not math.isfinite(last.grad_norm if kind == "gradient" else last.loss)


def test_rows_of_the_step_are_named_when_a_method_made_batches_of_its_own() -> None:
    objective = regression()
    update = objective.updates[0]

    def own_rounds(batches: Sequence[Points]) -> list[list[Points]]:
        return [[Points(batch.inputs * math.nan, batch.wanted) for batch in batches]]

    sampled = Objective(objective.modules, [update], own_rounds)
    with pytest.raises(NonFiniteError, match=r"rows: points:1\.0, points:1\.1\."):
        run_loop(sampled, PointSource((2,)), sgd(), LoopConfig(3))


class _Twice(torch.optim.SGD):
    """Asks for a second gradient, and remembers both."""

    seen: list[list[torch.Tensor]]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        parameters = self.param_groups[0]["params"]
        self.seen = [[p.grad.clone() for p in parameters]]
        closure()
        self.seen.append([p.grad.clone() for p in parameters])
        super().step()


def test_closure_gives_the_whole_gradient_again_with_the_same_random_numbers() -> None:
    objective = regression(dropout=0.5)
    made: list[_Twice] = []

    def build(update: Update[Any]) -> torch.optim.Optimizer:
        made.append(_Twice(list(update.parameters.values()), lr=0.1))
        return made[-1]

    run_loop(
        objective, PointSource((1, 2, 1)), Optimization(build, uses_closure=True), LoopConfig(3)
    )
    first, second = made[0].seen
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert sum(float(gradient.abs().sum()) for gradient in first) > 0


def test_random_numbers_go_on_after_a_closure_as_without_one() -> None:
    class Once(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            if closure is not None:
                closure()
            super().step()

    results = []
    for uses_closure in (False, True):
        objective = regression(dropout=0.5)
        optimization = Optimization(lambda u: Once(u.parameters.values(), lr=0.05), uses_closure)
        run_loop(objective, PointSource((2, 2)), optimization, LoopConfig(4))
        results.append(weights(objective))
    assert same(*results)


def test_closure_that_is_not_finite_leaves_the_weights_of_the_step_before() -> None:
    from yearling.training.optimizers import optimizers

    kind = optimizers.get("sam")
    objective, calls = regression(), [0]
    update = objective.updates[0]

    def loss(batch: Points) -> Loss:
        calls[0] += 1
        factor = math.nan if calls[0] == 6 else 1.0  # the second gradient of step 3
        return Loss(update.loss(batch).total * factor)

    changed = Objective(objective.modules, [Update("loss", update.parameters, loss, update.weight)])
    optimization = Optimization(
        lambda u: kind.build([{"params": list(u.parameters.values())}], kind.config(lr=0.01)), True
    )
    clean = regression()
    run_loop(clean, PointSource(), optimization, LoopConfig(2))
    with pytest.raises(NonFiniteError, match="step 3"):
        run_loop(changed, PointSource(), optimization, LoopConfig(5))
    assert same(weights(objective), weights(clean))


def test_average_follows_the_weights_and_is_what_is_validated() -> None:
    objective = regression()
    points = PointSource((64,)).next_step()
    seen: list[ValidationReport] = []
    path = [weights(objective)]
    hooks: Hooks[Points] = Hooks(
        on_step=lambda report: path.append(weights(objective)),
        on_validation=seen.append,
        validation=lambda: points,
    )
    loop = Loop(objective, PointSource(), sgd(), LoopConfig(3, ema=0.5), hooks)
    loop.run()
    average = path[0]
    for number, live in enumerate(path[1:]):
        decay = min(0.5, (1 + number) / (10 + number))
        average = {name: decay * average[name] + (1 - decay) * live[name] for name in average}
    assert loop.average is not None
    with loop.average.applied():
        applied = weights(objective)
        by_hand = float(objective.updates[0].loss(points[0]).total.detach()) / 64
    for name, value in average.items():
        torch.testing.assert_close(applied[name], value)
    assert seen[-1].loss == pytest.approx(by_hand, rel=1e-5)
    assert same(weights(objective), path[-1])
    assert not same(applied, path[-1])


def test_validation_changes_nothing_that_training_depends_on() -> None:
    results = []
    for every in (None, 1):
        objective = regression(dropout=0.5)
        points = PointSource((8,)).next_step()
        hooks: Hooks[Points] = Hooks(validation=lambda points=points: points)
        config = LoopConfig(5, validate_every=every)
        run_loop(objective, PointSource(), sgd(), config, hooks if every else Hooks())
        results.append(weights(objective))
    assert same(*results)


def test_patience_stops_when_validation_no_longer_improves() -> None:
    losses = iter([3.0, 2.0, 2.5, 2.0, 9.0])
    objective = regression()
    update = objective.updates[0]

    def loss(batch: Points) -> Loss:
        if torch.is_grad_enabled():
            return update.loss(batch)
        return Loss(torch.tensor(next(losses) * len(batch.wanted)))

    scripted = Objective(
        objective.modules, [Update("loss", update.parameters, loss, update.weight)]
    )
    saved: list[tuple[int, bool]] = []
    hooks: Hooks[Points] = Hooks(
        validation=lambda: PointSource().next_step(),
        save=lambda step, state, is_best: saved.append((step, is_best)),
    )
    config = LoopConfig(100, validate_every=2, patience=2)
    result = run_loop(scripted, PointSource(), sgd(), config, hooks)
    assert (result.reason, result.step) == ("patience", 8)
    assert (result.best_loss, result.best_step) == (2.0, 4)
    assert saved == [(2, True), (4, True), (8, False)]


def test_run_ends_with_the_data_the_time_or_when_asked() -> None:
    saved: list[int] = []
    save: Hooks[Points] = Hooks(save=lambda step, state, is_best: saved.append(step))
    assert run_loop(regression(), PointSource(num_steps=3), sgd(), LoopConfig(9), save).reason == (
        "end_of_data"
    )
    result = run_loop(regression(), PointSource(), sgd(), LoopConfig(9, max_seconds=1e-9), save)
    assert (result.reason, result.step) == ("max_seconds", 1)
    answers = iter([False, False, False, False, True, True, True, True])
    asked: Hooks[Points] = Hooks(save=save.save, is_stopping=lambda: next(answers))
    assert run_loop(regression(), PointSource(), sgd(), LoopConfig(9), asked).reason == "asked"
    assert saved[:2] == [3, 1]
    assert len(saved) == 3


@pytest.mark.parametrize("stop", [1, 4])
def test_resumed_run_equals_one_that_never_stopped(stop: int) -> None:
    states: list[dict[str, Any]] = []

    def loop(objective: Objective[Points], steps: list[StepReport]) -> Loop[Points]:
        schedule = ScheduleConfig(name="cosine", warmup=2)
        config = LoopConfig(9, ema=0.9, validate_every=2, checkpoint_every=stop)
        hooks: Hooks[Points] = Hooks(
            on_step=steps.append,
            validation=lambda: PointSource((8,)).next_step(),
            save=lambda step, state, is_best: states.append(_copied(state)),
        )
        return Loop(objective, PointSource((2, 1)), sgd(schedule=schedule), config, hooks)

    whole, whole_steps = regression(dropout=0.3), list[StepReport]()
    never = loop(whole, whole_steps)
    never.run()
    rest, rest_steps = regression(dropout=0.3), list[StepReport]()
    with torch.no_grad():
        for parameter in rest.updates[0].parameters.values():
            parameter.zero_()
    resumed = loop(rest, rest_steps)
    resumed.load_state_dict(next(state for state in states if state["step"] == stop))
    torch.rand(5)  # what else draws in between must not matter
    resumed.run()
    assert same(weights(whole), weights(rest))
    assert [r.updates for r in whole_steps[stop:]] == [r.updates for r in rest_steps]
    one, other = never.state_dict(), resumed.state_dict()
    assert torch.equal(one["random"]["rank_0"]["torch"], other["random"]["rank_0"]["torch"])
    assert same(one["average"]["averages"], other["average"]["averages"])
    assert str(one["optimizers"]) == str(other["optimizers"])


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def test_frozen_base_is_left_out_of_the_state_unless_it_changes() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    model[0].requires_grad_(False)
    target = nn.Linear(2, 2).requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def loss(batch: Points) -> Loss:
        return Loss((model(batch.inputs).squeeze(-1) - batch.wanted).square().sum())

    update = Update("loss", trained, loss, lambda batch: float(len(batch.wanted)))
    objective = Objective({"model": model, "target": target}, [update])
    loop = Loop(objective, PointSource(), sgd(), LoopConfig(2))
    assert set(loop.state_dict()["modules"]["model"]) == {"1.weight", "1.bias"}
    assert set(loop.state_dict()["modules"]["target"]) == {"weight", "bias"}
    with torch.no_grad():
        model[0].weight.add_(1.0)
    assert set(loop.state_dict()["modules"]["model"]) == {"0.weight", "1.weight", "1.bias"}


def test_state_of_another_model_is_refused() -> None:
    loop = Loop(regression(), PointSource(), sgd(), LoopConfig(2))
    state = loop.state_dict()
    state["modules"]["model"] = {"other.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="another model, adapter or method"):
        loop.load_state_dict(state)


def test_bfloat16_keeps_weights_in_float32() -> None:
    objective, kinds = regression(), set[torch.dtype]()
    update = objective.updates[0]

    def loss(batch: Points) -> Loss:
        model = objective.modules["model"]
        kinds.add(model(batch.inputs).dtype)
        return update.loss(batch)

    changed = Objective(objective.modules, [Update("loss", update.parameters, loss, update.weight)])
    run_loop(changed, PointSource(), sgd(), LoopConfig(2, precision="bfloat16"))
    assert kinds == {torch.bfloat16}
    assert {p.dtype for p in update.parameters.values()} == {torch.float32}


def test_schedule_moves_the_rate_of_every_step() -> None:
    reports: list[StepReport] = []
    schedule = ScheduleConfig(name="linear", warmup=2)
    run_loop(
        regression(),
        PointSource(),
        sgd(0.1, schedule),
        LoopConfig(6),
        Hooks(on_step=reports.append),
    )
    rates = [report.updates["loss"].lr for report in reports]
    assert rates == pytest.approx([0.05, 0.1, 0.1, 0.075, 0.05, 0.025])
