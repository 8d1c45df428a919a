"""Where each weight of a spec lies in a file: fused, stacked or transposed, and back.

A `Place` is worked out from the family's names alone, so neither interpreter nor converter knows
any family's storage.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint.formats import BLOCK_FORMATS, StoredTensor, to_float32
from yearling.models.spec import Attention, ModelSpec
from yearling.models.weights import Role, Weight, WeightName, weights_of

if TYPE_CHECKING:
    from yearling.models.families import Family

__all__ = ["Place", "gguf_places", "hugging_face_places", "take_weight"]

Rows = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where one weight lies.

    Attributes:
        name: The stored tensor's name.
        shape: The stored tensor's shape.
        rows: For each canonical row, the row of the stored matrix; None when it is all of it.
        is_transposed: The stored matrix is (inputs, outputs).
        value: How the stored numbers differ; see `WeightName.gguf_value`.
    """

    name: str
    shape: tuple[int, ...]
    rows: Rows | None = None
    is_transposed: bool = False
    value: Literal["same", "plus_one", "minus_exponential"] = "same"


def hugging_face_places(spec: ModelSpec, names: Mapping[Role, WeightName]) -> dict[Weight, Place]:
    """Say where a Hugging Face checkpoint keeps each weight of a spec.

    Raises:
        KeyError: the family names no weight of some role.
    """
    places: dict[Weight, Place] = {}
    for name, weights in _by_name(spec, names, lambda entry: entry.hugging_face).items():
        entry = names[weights[0].role]
        shape = _stored_shape(weights, "{expert}" in entry.hugging_face)
        is_transposed = entry.is_transposed and weights[0].part == "weight"
        if weights[0].role == "convolution" and weights[0].part == "weight":
            shape = (shape[0], 1, shape[1])
        shape = shape[::-1] if is_transposed else shape
        for weight, rows in zip(weights, _fused_rows(spec, weights, entry.rows), strict=True):
            places[weight] = Place(name, shape, rows, is_transposed)
    return places


def gguf_places(spec: ModelSpec, family: "Family") -> dict[Weight, Place]:
    """Say where a GGUF file keeps each weight of a spec.

    Raises:
        KeyError: the family names no weight of some role.
    """
    names = family.names(spec)
    places: dict[Weight, Place] = {}
    for name, weights in _by_name(spec, names, lambda entry: entry.gguf).items():
        entry = names[weights[0].role]
        shape = _stored_shape(weights, "{expert}" in entry.gguf)
        for weight, rows in zip(weights, _fused_rows(spec, weights, "blocks"), strict=True):
            order = None
            if family.gguf_row_order is not None and weight.layer is not None:
                order = family.gguf_row_order(weight.role, spec, weight.layer)
            if order is not None:
                rows = order if rows is None else rows[order]
            places[weight] = Place(name, shape, rows, value=entry.gguf_value)
    return places


def take_weight(stored: StoredTensor, place: Place, weight: Weight) -> StoredTensor:
    """Take one weight out of the tensor that holds it, in canonical form.

    Rows of block formats move as whole blocks, so quantisation codes stay what they are.
    """
    data = stored.data
    if place.is_transposed:
        item = BLOCK_FORMATS[stored.format].num_bytes
        data = data.reshape(*place.shape, item).swapaxes(0, 1)
    if place.rows is not None:
        data = data.reshape(_num_rows(place), -1)[place.rows]
    taken = StoredTensor(stored.format, weight.shape, np.ascontiguousarray(data).reshape(-1))
    if place.value == "same":
        return taken
    exact = to_float32(taken).astype(np.float64)
    values = (exact - 1 if place.value == "plus_one" else np.log(-exact)).astype(np.float32)
    return StoredTensor("F32", weight.shape, values.view(np.uint8).reshape(-1))


def _num_rows(place: Place) -> int:
    """Rows of the stored tensor as a matrix of outputs; experts lie one below the other."""
    shape = place.shape[::-1] if place.is_transposed else place.shape
    return prod(shape[:-1]) if len(shape) == 3 else shape[0]


def _by_name(
    spec: ModelSpec,
    names: Mapping[Role, WeightName],
    template_of: Callable[[WeightName], str],
) -> dict[str, list[Weight]]:
    """Group weights that share a tensor, in the order of the family's table."""
    order = {role: number for number, role in enumerate(names)}
    groups: dict[str, list[Weight]] = {}
    for weight in weights_of(spec):
        entry = names[weight.role]
        name = template_of(entry).format(layer=weight.layer, expert=weight.expert)
        if entry.has_suffix:
            name = f"{name}.{weight.part}"
        groups.setdefault(name, []).append(weight)
    for weights in groups.values():
        weights.sort(key=lambda weight: (weight.expert or 0, order[weight.role]))
    return groups


def _stored_shape(weights: Sequence[Weight], has_expert_name: bool) -> tuple[int, ...]:
    rows = sum(weight.shape[0] for weight in weights)
    columns = weights[0].shape[1:]
    experts = {weight.expert for weight in weights}
    if has_expert_name or experts == {None}:
        return (rows, *columns)
    return (len(experts), rows // len(experts), *columns)


def _fused_rows(spec: ModelSpec, weights: Sequence[Weight], order: str) -> list[Rows | None]:
    """Rows of each of several weights in the tensor they share."""
    if len(weights) == 1:
        return [None]
    total = sum(weight.shape[0] for weight in weights)
    groups = _num_groups(spec, weights[0], order)
    result: list[Rows | None] = []
    first = 0
    for weight in weights:
        share = weight.shape[0] // groups
        begins = np.arange(groups)[:, None] * (total // groups) + first
        result.append((begins + np.arange(share)).reshape(-1))
        first += share
    return result


def _num_groups(spec: ModelSpec, weight: Weight, order: str) -> int:
    if order == "quarters":
        return 4
    if order == "groups":
        assert weight.layer is not None
        mixer = spec.layers[weight.layer].mixer
        assert isinstance(mixer, Attention)
        return mixer.kv_heads
    return 1
