"""The training loop: any objective over any source of micro-batches, for a number of steps.

It owns accumulation, precision, clipping, schedules, averages, validation, the finite check,
and what a checkpoint must hold. A method never sees it (`objective.py`), and it never sees
files: what surrounds it comes in as `Hooks`.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, NoReturn, TypeVar

import torch

from yearling.core.errors import NonFiniteError
from yearling.training.ema import WeightAverage
from yearling.training.gradient import Gradient, NotFinite, UpdateRunner
from yearling.training.hooks import Hooks, StepReport, UpdateReport, ValidationReport
from yearling.training.loop_state import ModuleState, load_optimizer_state, optimizer_state
from yearling.training.objective import BatchSource, Objective, Update
from yearling.training.precision import Precision, autocast, choose_device, deterministic
from yearling.training.random_state import load_random_state, random_state, seed_everything
from yearling.training.schedules import ScheduleConfig, rate_factor

__all__ = [
    "Hooks",
    "Loop",
    "LoopConfig",
    "LoopResult",
    "Optimization",
    "StepReport",
    "StopReason",
    "UpdateReport",
    "ValidationReport",
    "run_loop",
]

Batch = TypeVar("Batch")
StopReason = Literal["max_steps", "end_of_data", "max_seconds", "patience", "asked"]
_SHOWN_ROWS = 8


@dataclass(frozen=True, slots=True)
class LoopConfig:
    """How a loop runs, in plain values.

    Attributes:
        max_steps: Optimizer steps of the whole run; schedules end there.
        max_seconds: Training time after which it stops at the end of a step.
        seed: Of every generator; ranks add their number.
        device: `auto`, `cpu`, `cuda`, `cuda:1`.
        precision: In which losses are computed; weights are float32 either way.
        clip: Longest gradient; None leaves gradients as they are.
        ema: Decay of an averaged copy of what is trained, by which validation goes; None for none.
        validate_every: Steps between validations; None for none before the end.
        patience: Validations without a better loss after which the run stops.
        checkpoint_every: Steps between checkpoints; None for none but the last.
        is_deterministic: Whether the same seed gives the same bits, as far as the device can.
    """

    max_steps: int
    max_seconds: float | None = None
    seed: int = 0
    device: str = "cpu"
    precision: Precision = "float32"
    clip: float | None = 1.0
    ema: float | None = None
    validate_every: int | None = None
    patience: int | None = None
    checkpoint_every: int | None = None
    is_deterministic: bool = True


@dataclass(frozen=True)
class Optimization:
    """The optimizers of a run.

    Attributes:
        build: Makes the optimizer of an update, over its parameters; an objective with several
            updates may get a different one for each.
        uses_closure: Whether `step` asks for a second gradient.
        schedule: Of the learning rate.
    """

    build: Callable[[Update[Any]], torch.optim.Optimizer]
    uses_closure: bool = False
    schedule: ScheduleConfig = field(
        default_factory=lambda: ScheduleConfig(name="constant", warmup=0)
    )


@dataclass(frozen=True, slots=True)
class LoopResult:
    """How a run ended.

    Attributes:
        step: Steps done.
        reason: Why it ended there.
        loss: Of the last step's first update; None when there was no step.
        best_loss: Of the best validation; None without one.
        best_step: Its step.
    """

    step: int
    reason: StopReason
    loss: float | None
    best_loss: float | None
    best_step: int | None


def run_loop(
    objective: Objective[Batch],
    source: BatchSource[Batch],
    optimization: Optimization,
    config: LoopConfig,
    hooks: "Hooks[Batch] | None" = None,
) -> LoopResult:
    """Train an objective from its start.

    Raises:
        NonFiniteError: a loss or gradient is not a finite number; the weights are those of the
            step before.
    """
    return Loop(objective, source, optimization, config, hooks).run()


class Loop(Generic[Batch]):
    """A run of training that can be saved and taken up again at any step.

    Attributes:
        step: Steps done.
        average: The averaged copy of what is trained, when the configuration asks for one.
    """

    def __init__(
        self,
        objective: Objective[Batch],
        source: BatchSource[Batch],
        optimization: Optimization,
        config: LoopConfig,
        hooks: "Hooks[Batch] | None" = None,
    ) -> None:
        """Move the modules to the device and make the optimizers."""
        self._objective = objective
        self._source = source
        self._schedule = optimization.schedule
        self._config = config
        self._hooks: Hooks[Batch] = hooks or Hooks()
        self._device = choose_device(config.device)
        for module in objective.modules.values():
            module.to(self._device)
        self._runners = {u.name: self._runner(u, optimization) for u in objective.updates}
        self._modules = {name: ModuleState(module) for name, module in objective.modules.items()}
        self.average = None if config.ema is None else WeightAverage(self._trained(), config.ema)
        self.step = 0
        self._tokens = 0
        self._seconds = 0.0
        self._best: tuple[float, int] | None = None
        self._num_worse = 0
        self._last_loss: float | None = None
        self._random: Mapping[str, Any] | None = None
        self._is_running = False
        self._own_name = f"rank_{self._hooks.ranks.rank}"
        self._validated_step = self._saved_step = 0

    def run(self) -> LoopResult:
        """Train until the steps, the data, the time or the patience end, or a hook says so.

        Raises:
            NonFiniteError: a loss or gradient is not a finite number; the weights are those of
                the step before, and no checkpoint is written.
        """
        if self._random is None:
            ranks = self._hooks.ranks
            seed_everything(self._config.seed + self.step * ranks.size + ranks.rank)
        else:
            load_random_state(self._random)
        self._is_running = True
        self._set_modes(is_training=True)
        context = deterministic(self._device) if self._config.is_deterministic else nullcontext()
        try:
            with context:
                reason = self._run_steps()
        finally:
            self._random, self._is_running = random_state(), False
        best_loss, best_step = self._best or (None, None)
        return LoopResult(self.step, reason, self._last_loss, best_loss, best_step)

    def state_dict(self) -> dict[str, Any]:
        """Give everything that the next step depends on.

        It is the same in every rank, sharded tensors aside, but for `random`, which has one
        entry, named after the rank.
        """
        random = self._random
        if self._is_running or random is None:
            random = random_state()
        objective = self._objective
        return {
            "step": self.step,
            "modules": {name: module.state_dict() for name, module in self._modules.items()},
            "optimizers": {
                name: optimizer_state(runner.optimizer, runner.update)
                for name, runner in self._runners.items()
            },
            "objective": {name: part.state_dict() for name, part in objective.state.items()},
            "source": self._source.state_dict(),
            "random": {self._own_name: random},
            "average": {} if self.average is None else self.average.state_dict(),
            "progress": {
                "tokens": self._tokens,
                "seconds": self._seconds,
                "best": list(self._best or ()),
                "num_worse": self._num_worse,
                "last_loss": self._last_loss,
            },
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to where a state was saved.

        Args:
            state: As `state_dict` gave it, with the entries of all ranks in `random`; one that
                has none begins its random numbers anew from seed and step.
        Raises:
            CheckpointError: it is of another model, adapter or method.
        """
        for name, module in self._modules.items():
            module.load_state_dict(name, state["modules"][name])
        for name, runner in self._runners.items():
            load_optimizer_state(runner.optimizer, runner.update, state["optimizers"][name])
        for name, part in self._objective.state.items():
            part.load_state_dict(state["objective"][name])
        self._source.load_state_dict(state["source"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.step = self._validated_step = self._saved_step = state["step"]
        progress = state["progress"]
        self._tokens, self._seconds = progress["tokens"], progress["seconds"]
        self._best = tuple(progress["best"]) or None
        self._num_worse, self._last_loss = progress["num_worse"], progress["last_loss"]
        self._random = state["random"].get(self._own_name)

    def validate(self) -> ValidationReport | None:
        """Compute the mean loss of the validation source with the averaged weights, if any.

        Nothing that training depends on is changed; random numbers are put back.
        """
        if self._hooks.validation is None:
            return None
        update, random = self._objective.updates[0], random_state()
        applied = nullcontext() if self.average is None else self.average.applied()
        self._set_modes(is_training=False)
        sums: dict[str, float] = {"loss": 0.0, "weight": 0.0}
        with torch.no_grad(), applied:
            for batch in self._hooks.validation():
                moved = self._hooks.move(batch, self._device)
                with autocast(self._config.precision, self._device):
                    loss = update.loss(moved)
                found = {"loss": float(loss.total), "weight": update.weight(moved), **loss.metrics}
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value
        self._set_modes(is_training=True)
        load_random_state(random)
        totals = dict(zip(sums, self._hooks.ranks.total(list(sums.values())), strict=True))
        weight = totals.pop("weight")
        return self._judge({name: value / weight for name, value in totals.items()})

    def _judge(self, means: dict[str, float]) -> ValidationReport:
        loss = means.pop("loss")
        is_best = math.isfinite(loss) and (self._best is None or loss < self._best[0])
        if is_best:
            self._best = (loss, self.step)
        self._num_worse = 0 if is_best else self._num_worse + 1
        report = ValidationReport(self.step, loss, means, is_best)
        self._hooks.on_validation(report)
        return report

    def _run_steps(self) -> StopReason:
        while (reason := self._reason_to_stop()) is None:
            batches = [self._hooks.move(b, self._device) for b in self._source.next_step()]
            if not batches:
                reason = "end_of_data"
                break
            self._take_step(batches)
            self._keep(is_last=self._reason_to_stop() is not None)
        self._keep(is_last=True)
        return reason

    def _reason_to_stop(self) -> StopReason | None:
        config = self._config
        if self.step >= config.max_steps:
            return "max_steps"
        if config.max_seconds is not None and self._seconds >= config.max_seconds:
            return "max_seconds"
        if config.patience is not None and self._num_worse >= config.patience:
            return "patience"
        return "asked" if self._hooks.is_stopping() else None

    def _keep(self, *, is_last: bool) -> None:
        """Validate and save when it is time to, each at most once a step."""
        config, is_best = self._config, False
        is_due = is_last or _is_due(self.step, config.validate_every)
        if is_due and self._validated_step != self.step:
            self._validated_step = self.step
            report = self.validate()
            is_best = report is not None and report.is_best
        # Patience may have run out just now, so the reason is asked for again.
        is_last = is_last or self._reason_to_stop() is not None
        is_due = is_last or _is_due(self.step, config.checkpoint_every)
        if is_best or (is_due and self._saved_step != self.step):
            self._saved_step = self.step
            if self._hooks.save is not None:
                self._hooks.save(self.step, self.state_dict(), is_best)

    def _take_step(self, batches: Sequence[Batch]) -> None:
        started = time.perf_counter()
        factor = rate_factor(self._schedule, self.step, self._config.max_steps)
        rates = {name: runner.set_rate(factor) for name, runner in self._runners.items()}
        gradients: dict[str, list[Gradient]] = {name: [] for name in self._runners}
        tokens = int(self._hooks.ranks.total([sum(map(self._hooks.num_tokens, batches))])[0])
        for round_batches in self._objective.rounds(batches):
            for name, runner in self._runners.items():
                try:
                    gradients[name].append(runner.run(round_batches))
                except NotFinite as problem:
                    gradients[name].append(problem.gradient)
                    self._report(self.step + 1, gradients, rates, (tokens, started))
                    self._refuse(name, problem, round_batches, batches)
        self.step += 1
        self._objective.after_step(self.step)
        if self.average is not None:
            self.average.update()
        self._report(self.step, gradients, rates, (tokens, started))

    def _report(
        self,
        step: int,
        gradients: Mapping[str, Sequence[Gradient]],
        rates: Mapping[str, float],
        effort: tuple[int, float],
    ) -> None:
        tokens, started = effort
        elapsed = time.perf_counter() - started
        self._seconds += elapsed
        self._tokens += tokens
        updates = {name: _summary(found, rates[name]) for name, found in gradients.items() if found}
        self._last_loss = next(iter(updates.values())).loss
        self._hooks.on_step(
            StepReport(
                step,
                updates,
                tokens,
                self._tokens,
                elapsed,
                self._seconds,
                self._hooks.epoch(),
            )
        )

    def _refuse(
        self,
        name: str,
        problem: NotFinite,
        round_batches: Sequence[Batch],
        batches: Sequence[Batch],
    ) -> NoReturn:
        """Say which rows a step could not learn from."""
        culprits = [round_batches[number] for number in problem.culprits]
        # What a method makes of its rows, such as sampled answers, has no names of its own.
        is_named = culprits and all(any(c is batch for batch in batches) for c in culprits)
        named = [
            row
            for batch in (culprits if is_named else batches)
            for row in self._source.row_names(batch)
        ]
        gradient = problem.gradient
        if problem.culprits:
            values = ", ".join(f"{gradient.losses[n]:g}" for n in problem.culprits)
            what = f"{name} is {values}"
        elif not math.isfinite(gradient.loss):
            what = f"{name} is {gradient.loss:g} on another rank"
        else:
            what = f"{name} is {gradient.loss:g}, but the norm of its gradient {gradient.norm:g}"
        raise NonFiniteError(
            f"step {self.step + 1}: {what}; rows: {_listed(named)}.\n"
            f"  The weights are those of step {self.step}. Look at these rows, or lower the "
            "learning rate or the clip."
        )

    def _runner(self, update: Update[Batch], optimization: Optimization) -> UpdateRunner[Batch]:
        return UpdateRunner(
            update,
            optimization.build(update),
            optimization.uses_closure,
            self._hooks.ranks,
            self._config.precision,
            self._config.clip,
            self._device,
        )

    def _trained(self) -> dict[str, torch.nn.Parameter]:
        return {
            f"{update.name}.{name}": parameter
            for update in self._objective.updates
            for name, parameter in update.parameters.items()
        }

    def _set_modes(self, *, is_training: bool) -> None:
        """Modules with something to learn train, the others never do."""
        for module in self._objective.modules.values():
            is_learning = any(p.requires_grad for p in module.parameters())
            module.train(is_training and is_learning)


def _is_due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _summary(gradients: Sequence[Gradient], lr: float) -> UpdateReport:
    """Join rounds: means by their weights."""
    weight = sum(gradient.weight for gradient in gradients)
    loss = sum(gradient.loss * gradient.weight for gradient in gradients) / weight
    names = dict.fromkeys(name for gradient in gradients for name in gradient.metrics)
    metrics = {
        name: sum(g.metrics.get(name, 0.0) * g.weight for g in gradients) / weight for name in names
    }
    return UpdateReport(loss, lr, gradients[-1].norm, metrics)


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_SHOWN_ROWS])
    return shown if len(names) <= _SHOWN_ROWS else f"{shown} and {len(names) - _SHOWN_ROWS} more"
