"""An adapter as updates of the native core's packed operations."""

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.kernels.program import LowRankUpdate
from yearling.models.adapter import LowRankAdapter, Update
from yearling.models.packing import Part

__all__ = ["native_updates"]

_TILE = 8  # outputs at whose multiples the core lets a part begin


def native_updates(
    adapter: LowRankAdapter, linear_parts: Sequence[Sequence[Part]]
) -> list[LowRankUpdate]:
    """Find the operation of every matrix that an adapter changes.

    Args:
        adapter: Of this model.
        linear_parts: As `models.program.CompiledModel` has them.

    Raises:
        ModelFormatError: the adapter changes a matrix that is no linear operation of its own, an
            expert's say.
    """
    wanted = dict(adapter.updates)
    updates = []
    for number, held in enumerate(linear_parts):
        columns = [0, *accumulate(part.outputs for part in held)]
        changed = [
            (column, wanted.pop((part.layer, part.role)))
            for column, part in zip(columns, held, strict=False)
            if (part.layer, part.role) in wanted
        ]
        if changed:
            updates.append(_update(number, columns[-1], changed))
    if wanted:
        layer, role = next(iter(wanted))
        raise ModelFormatError(
            f"{adapter.path} changes the {role} of layer {layer}, which is not served beside a "
            f"base. Merge the adapter: yearling merge {adapter.path} BASE TARGET."
        )
    return updates


def _update(number: int, outputs: int, changed: Sequence[tuple[int, Update]]) -> LowRankUpdate:
    rows = [0, *accumulate(len(update.first) for _, update in changed)]
    first = np.concatenate([update.first for _, update in changed])
    if all(column % _TILE == 0 for column, _ in changed):
        placed = tuple(
            (column, row, part.second) for (column, part), row in zip(changed, rows, strict=False)
        )
        return LowRankUpdate(number, first, placed)
    # Parts that begin elsewhere become one, with zeros where they do not meet.
    second = np.zeros((outputs, len(first)), np.float32)
    for (column, part), row in zip(changed, rows, strict=False):
        count, rank = part.second.shape
        second[column : column + count, row : row + rank] = part.second
    return LowRankUpdate(number, first, ((0, 0, second),))
