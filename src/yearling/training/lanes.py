"""Two micro-batches at a time on a processor, each with half of its threads.

Two threads that share one matrix product wait for each other at its end, and much between products
keeps one of them busy alone: on two cores a step of LoRA takes a sixth longer than two such steps
side by side on a core each. So two lanes compute a step's micro-batches, forward and backward, and
the loop gets their losses and gradients in its own order, as if it had computed them one by one.

A lane's gradient lies beside the one that the loop adds up, so this is for adapters, whose
gradients are small. What draws random numbers or switches the model while it computes, as dropout
and DPO's reference do, needs all of the process, and stays in one lane.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from yearling.training.batch import PackedBatch
from yearling.training.config import TrainConfig
from yearling.training.method import methods
from yearling.training.objective import Loss, Objective, Update
from yearling.training.precision import choose_device

__all__ = ["NUM_LANES", "has_lanes", "in_lanes", "tokens_at_once"]

NUM_LANES = 2
"""Of a run that has lanes."""

_Gradients = tuple[Tensor | None, ...]


def has_lanes(config: TrainConfig, world: int) -> bool:
    """Whether a run's micro-batches are computed side by side.

    Args:
        config: Of the run.
        world: Its processes.
    """
    threads = torch.get_num_threads() if config.threads is None else config.threads
    is_possible = (
        world == 1
        and threads >= NUM_LANES
        and choose_device(config.device).type == "cpu"
        and config.precision == "float32"
        and not methods.get(config.method.name).switches_model
    )
    if not is_possible or config.adapter is None:
        return False
    return not getattr(config.adapter.options, "dropout", 0.0)


def tokens_at_once(batches: Iterable[PackedBatch]) -> int:
    """Give the most tokens of a step that are computed at one time."""
    longest: dict[int | None, int] = {}
    for batch in batches:
        longest[batch.lane] = max(longest.get(batch.lane, 0), len(batch.tokens))
    return max(longest.pop(None, 0), sum(longest.values()))


@contextmanager
def in_lanes(objective: Objective[PackedBatch]) -> Iterator[Objective[PackedBatch]]:
    """Give an objective whose batches that have a lane are computed in it.

    Args:
        objective: With one update.

    Raises:
        ValueError: it has several.
    """
    if len(objective.updates) != 1:
        raise ValueError(f"lanes compute one update, not {len(objective.updates)}.")
    num_threads = torch.get_num_threads()
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in range(NUM_LANES)]
        lanes = _Lanes(objective.updates[0], pools, max(1, num_threads // NUM_LANES))

        def rounds(batches: Sequence[PackedBatch]) -> Iterator[Sequence[PackedBatch]]:
            for batches_of_round in objective.rounds(batches):
                lanes.batches = batches_of_round
                yield batches_of_round

        try:
            yield replace(
                objective, updates=[replace(lanes.update, loss=lanes.loss)], rounds=rounds
            )
        finally:
            torch.set_num_threads(num_threads)  # a lane's own number became that of new threads


class _Lanes:
    """The losses of a round, some of them under way.

    Attributes:
        update: Whose losses they are.
        batches: Of the round.
    """

    def __init__(
        self, update: Update[PackedBatch], pools: Sequence[ThreadPoolExecutor], num_threads: int
    ) -> None:
        self.update = update
        self.batches: Sequence[PackedBatch] = ()
        self._pools = pools
        self._num_threads = num_threads
        self._parameters = list(update.parameters.values())
        self._under_way: dict[int, Future[tuple[Loss, _Gradients]]] = {}

    def loss(self, batch: PackedBatch) -> Loss:
        """Give a batch's loss, whose gradient is known already where the batch has a lane.

        The first batch of a round that is asked for sets all of them going, since nothing changes
        the weights before the last one's backward pass.
        """
        if batch.lane is None or not torch.is_grad_enabled():
            return self.update.loss(batch)
        if id(batch) not in self._under_way:
            self._under_way = {
                id(each): self._pools[each.lane].submit(self._compute, each)
                for each in self.batches
                if each.lane is not None
            }
        loss, gradients = self._under_way.pop(id(batch)).result()
        total: Tensor = _Known.apply(loss.total, gradients, *self._parameters)  # type: ignore[no-untyped-call]
        return replace(loss, total=total)

    def _compute(self, batch: PackedBatch) -> tuple[Loss, _Gradients]:
        torch.set_num_threads(self._num_threads)  # of this thread
        loss = self.update.loss(batch)
        gradients = torch.autograd.grad(loss.total, self._parameters, allow_unused=True)
        return replace(loss, total=loss.total.detach()), gradients


class _Known(torch.autograd.Function):
    """A number whose gradient by each parameter was computed before."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: _Gradients, *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        scaled = [None if known is None else known * upstream[0] for known in ctx.gradients]
        return None, None, *scaled
