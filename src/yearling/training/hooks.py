"""What surrounds a loop, and what it is told: reports of steps and validations, and hooks."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch

from yearling.training.ranks import ALONE, Ranks

__all__ = ["Hooks", "StepReport", "UpdateReport", "ValidationReport"]

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class UpdateReport:
    """One update in a step, over all its rounds.

    Attributes:
        loss: Mean over units of all rounds and ranks; not a number where a run ends for that.
        lr: Learning rate of the first parameter group.
        grad_norm: Length of the last round's gradient, before clipping.
        metrics: What the method adds, as means over the same units.
    """

    loss: float
    lr: float
    grad_norm: float
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class StepReport:
    """What a step did.

    Attributes:
        step: From 1.
        updates: By name, in order.
        tokens: Of this step, over all ranks.
        total_tokens: Since the run began.
        step_seconds: Time of this step, without validation and checkpoints.
        seconds: Training time since the run began, whatever was resumed in between.
        epoch: Passes over the data so far; None where the source does not count them.
    """

    step: int
    updates: Mapping[str, UpdateReport]
    tokens: int
    total_tokens: int
    step_seconds: float
    seconds: float
    epoch: float | None


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """A validation.

    Attributes:
        step: After which it was.
        loss: Mean over units of the whole validation source.
        metrics: What the method adds, as means.
        is_best: Whether no validation before was better.
    """

    step: int
    loss: float
    metrics: Mapping[str, float]
    is_best: bool


def _ignore(report: Any) -> None:
    return


def _never() -> bool:
    return False


def _no_tokens(batch: Any) -> int:
    return 0


def _stay(batch: Any, device: torch.device) -> Any:
    return batch


def _unknown_epoch() -> float | None:
    return None


@dataclass(frozen=True)
class Hooks(Generic[Batch]):
    """What surrounds a loop.

    Attributes:
        on_step: Told of each step, also of one that ends the run because it is not finite.
        on_validation: Told of each validation.
        save: Writes a checkpoint: step, state, whether it is the best so far by validation.
        is_stopping: Asked after each step; True ends the run with a checkpoint.
        validation: Gives the micro-batches of the validation source, from its start.
        num_tokens: Tokens of a micro-batch of the source, for speed.
        move: Puts a micro-batch of the source on the device.
        epoch: Passes over the data so far.
        ranks: Processes that train together.
    """

    on_step: Callable[[StepReport], None] = _ignore
    on_validation: Callable[[ValidationReport], None] = _ignore
    save: Callable[[int, Mapping[str, Any], bool], None] | None = None
    is_stopping: Callable[[], bool] = _never
    validation: Callable[[], Iterable[Batch]] | None = None
    num_tokens: Callable[[Batch], int] = _no_tokens
    move: Callable[[Batch, torch.device], Batch] = _stay
    epoch: Callable[[], float | None] = _unknown_epoch
    ranks: Ranks = ALONE
