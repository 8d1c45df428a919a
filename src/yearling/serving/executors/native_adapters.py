"""An adapter as updates of the native core's packed operations."""

from collections.abc import Iterator, Sequence

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.kernels import ops
from yearling.kernels.program import LowRankUpdate
from yearling.models.adapter import LowRankAdapter, Update

__all__ = ["native_updates"]

_TILE = 8  # outputs at whose multiples the core lets a part begin


def native_updates(adapter: LowRankAdapter, operations: Sequence[ops.Op]) -> list[LowRankUpdate]:
    """Find the operation of every matrix that an adapter changes.

    Raises:
        ModelFormatError: the adapter changes a matrix that is no linear operation of its own, an
            expert's say.
    """
    wanted = {(layer, str(role)): update for (layer, role), update in adapter.updates.items()}
    updates = []
    linear = (op for op in operations if isinstance(op, ops.Linear))
    for number, op in enumerate(linear):
        parts = [
            (column, wanted.pop((part.layer, part.role)))
            for column, part in _columns(op)
            if (part.layer, part.role) in wanted
        ]
        if parts:
            updates.append(_update(number, op, parts))
    if wanted:
        layer, role = next(iter(wanted))
        raise ModelFormatError(
            f"{adapter.path} changes the {role} of layer {layer}, which is not served beside a "
            f"base. Merge the adapter: yearling merge {adapter.path} BASE TARGET."
        )
    return updates


def _columns(op: ops.Linear) -> Iterator[tuple[int, ops.LinearPart]]:
    column = 0
    for part in op.parts:
        yield column, part
        column += part.outputs


def _update(number: int, op: ops.Linear, parts: Sequence[tuple[int, Update]]) -> LowRankUpdate:
    ranks = np.cumsum([0, *(len(update.first) for _, update in parts)])
    first = np.concatenate([update.first for _, update in parts])
    if all(column % _TILE == 0 for column, _ in parts):
        placed = tuple(
            (column, row, part.second)
            for (column, part), row in zip(parts, ranks.tolist(), strict=False)
        )
        return LowRankUpdate(number, first, placed)
    # Parts that begin elsewhere become one, with zeros where they do not meet.
    second = np.zeros((op.weights.outputs, len(first)), np.float32)
    for (column, part), row in zip(parts, ranks, strict=False):
        outputs, rank = part.second.shape
        second[column : column + outputs, row : row + rank] = part.second
    return LowRankUpdate(number, first, ((0, 0, second),))
