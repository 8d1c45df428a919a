"""What the loop asks of the processes that train together; a run in one process is `ALONE`."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

from yearling.training.objective import Loss, Update

__all__ = ["ALONE", "Alone", "Ranks"]


class Ranks(Protocol):
    """The processes of a run, each with its own micro-batches of every step.

    Attributes:
        rank: This process's number among those with rows of their own, from 0.
        size: How many of those there are.
        is_first: Whether this process writes what is written once: metrics, the finished run.
        gradient_factor: What losses are multiplied by, because the engine that exchanges
            gradients gives their mean over ranks where the loop wants their sum.
    """

    rank: int
    size: int
    is_first: bool
    gradient_factor: float

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all ranks; every rank gets the same bits."""
        ...

    def loss_of(self, update: Update[Any]) -> Callable[[Any], Loss]:
        """Give what computes an update's loss of a micro-batch, under the engine's wrapping."""
        ...

    def exchanging(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Stand around the forward and backward pass of a micro-batch.

        Args:
            is_last: Whether gradients are exchanged in this one; until then they stay here.
        """
        ...


class Alone:
    """One process."""

    rank = 0
    size = 1
    is_first = True
    gradient_factor = 1.0

    def total(self, values: Sequence[float]) -> list[float]:
        """Give the values as they are."""
        return list(values)

    def loss_of(self, update: Update[Any]) -> Callable[[Any], Loss]:
        """Give the update's own loss."""
        return update.loss

    def exchanging(self, *, is_last: bool) -> AbstractContextManager[Any]:
        """Do nothing."""
        return nullcontext()


ALONE: Ranks = Alone()
