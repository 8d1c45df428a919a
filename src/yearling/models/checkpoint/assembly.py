"""Canonical weights to the tensors of a file: fused, stacked, transposed; `take_weight` undone."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.places import Place
from yearling.models.weights import Weight

__all__ = ["plan_tensors"]

ReadWeight = Callable[[Weight, str], StoredTensor]
"""Gives a weight in a format."""


def plan_tensors(
    places: Mapping[Weight, Place], format_of: Callable[[Weight], str], read: ReadWeight
) -> list[PlannedTensor]:
    """Plan the tensors that hold weights at their places.

    Args:
        places: Where each weight goes.
        format_of: The format that each weight should have in the file.
        read: Gives a weight in a format; called when the tensor is written.
    """
    tensors: dict[str, list[Weight]] = {}
    for weight, place in places.items():
        tensors.setdefault(place.name, []).append(weight)
    return [
        _plan(name, weights, places, format_of, read) for name, weights in sorted(tensors.items())
    ]


def _plan(
    name: str,
    weights: Sequence[Weight],
    places: Mapping[Weight, Place],
    format_of: Callable[[Weight], str],
    read: ReadWeight,
) -> PlannedTensor:
    place = places[weights[0]]
    kept = "F32" if place.value != "same" else _joint_format({format_of(w) for w in weights})

    def assemble() -> StoredTensor:
        parts = [(places[weight], read(weight, kept)) for weight in weights]
        return StoredTensor(kept, place.shape, _joined(parts, place.shape))

    return PlannedTensor(name, kept, place.shape, assemble)


def _joint_format(formats: set[str]) -> str:
    """Find the format that tensors stored as one can share without loss."""
    return formats.pop() if len(formats) == 1 else "F32"


def _joined(
    parts: Sequence[tuple[Place, StoredTensor]], shape: tuple[int, ...]
) -> NDArray[np.uint8]:
    place, first = parts[0]
    item_bytes = BLOCK_FORMATS[first.format].num_bytes
    total = BLOCK_FORMATS[first.format].size(shape)
    num_rows = sum(part.shape[0] for _, part in parts)
    rows: NDArray[np.uint8] = np.empty((num_rows, total // num_rows), np.uint8)
    for part_place, part in parts:
        at = slice(None) if part_place.rows is None else part_place.rows
        rows[at] = _stored_values(part, part_place).data.reshape(part.shape[0], -1)
    if place.is_transposed:
        return rows.reshape(num_rows, -1, item_bytes).swapaxes(0, 1).reshape(-1)
    return rows.reshape(-1)


def _stored_values(part: StoredTensor, place: Place) -> StoredTensor:
    if place.value == "same":
        return part
    exact = to_float32(part).astype(np.float64)
    values = (exact + 1 if place.value == "plus_one" else -np.exp(exact)).astype(np.float32)
    return StoredTensor("F32", part.shape, values.reshape(-1).view(np.uint8))
