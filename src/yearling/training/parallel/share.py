"""The micro-batches of a step, dealt out to the processes that share it."""

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from yearling.core.errors import TrainingError
from yearling.training.objective import BatchSource

__all__ = ["ShareOfSource"]

Batch = TypeVar("Batch")


class ShareOfSource(Generic[Batch]):
    """One process's micro-batches of each step; all processes together have those of the source.

    Every process reads the same source, so its place in the data is the same in each, and a run
    can be taken up again by another number of processes. A last step with fewer micro-batches
    than processes is left out in all of them.
    """

    def __init__(self, source: BatchSource[Batch], rank: int, size: int) -> None:
        """Deal out a source.

        Args:
            source: The same in every process.
            rank: Of this process among those with rows of their own.
            size: How many of those there are.
        """
        self._source = source
        self._rank = rank
        self._size = size
        self._has_given = False

    def next_step(self) -> Sequence[Batch]:
        """Give this process's micro-batches of the next step; empty at the end of the data.

        Raises:
            TrainingError: the first step has fewer micro-batches than there are processes.
        """
        batches = self._source.next_step()
        if len(batches) >= self._size:
            self._has_given = True
            return batches[self._rank :: self._size]
        if batches and not self._has_given:
            raise TrainingError(
                f"a step has {len(batches)} micro-batches for {self._size} processes.\n"
                "  Make micro-batches smaller (micro_batch_tokens), or steps larger (batch_tokens)."
            )
        return []

    def row_names(self, batch: Any) -> Sequence[str]:
        """Name the rows of a micro-batch."""
        return self._source.row_names(batch)

    def state_dict(self) -> dict[str, Any]:
        """Give the source's place in the data."""
        return self._source.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go back to it."""
        self._source.load_state_dict(state)
