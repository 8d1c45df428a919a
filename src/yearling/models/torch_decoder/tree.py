"""Hugging Face's module tree for a spec, and which leaf of it computes each role.

Leaves are looked up through their parents at every call, so a leaf that PEFT or a quantiser
has replaced is the one that computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from yearling.models.places import Place
from yearling.models.torch_decoder.leaves import TransposedLinear
from yearling.models.weights import Role, Weight

__all__ = [
    "Part",
    "Slot",
    "Wiring",
    "find",
    "is_bare_parameter",
    "linear",
    "plant",
    "project_by",
    "slots_of",
]

Rows = slice | Tensor | None


class Part(NamedTuple):
    """What a role is looked up by."""

    role: Role
    expert: int | None = None


@dataclass(frozen=True)
class Slot:
    """Where one role's weight lives.

    Attributes:
        path: Names from the owner down to the leaf module, or to a bare parameter.
        rows: The role's rows of the leaf's outputs; None for all of them.
        is_bare: The path ends in a parameter.
    """

    path: tuple[str, ...]
    rows: Rows = None
    is_bare: bool = False


@dataclass(frozen=True)
class Wiring:
    """The slots of one owner: a layer, or what lies around the layers.

    Attributes:
        slots: By role and expert.
        biases: Of roles whose weights are bare parameters.
    """

    slots: Mapping[Part, Slot]
    biases: Mapping[Part, Slot] = field(default_factory=dict)

    def has(self, role: Role) -> bool:
        """Whether the owner has a weight of that role."""
        return Part(role) in self.slots

    def leaf(self, owner: nn.Module, role: Role) -> nn.Module:
        """The module that holds a role now."""
        slot = self.slots[Part(role)]
        found = find(owner, slot.path)
        assert isinstance(found, nn.Module), f"{role} is a bare parameter"
        return found

    def values(self, owner: nn.Module, role: Role) -> Tensor:
        """A role's parameter as it is stored, gathered if it lies across processes."""
        slot = self.slots[Part(role)]
        stored = _gathered(self.parameter(owner, role))
        return stored if slot.rows is None else _take(stored, slot.rows, 0)

    def parameter(self, owner: nn.Module, role: Role) -> Tensor:
        """The parameter that holds a role now, of which it may have some rows only."""
        found = find(owner, self.slots[Part(role)].path)
        stored = found if isinstance(found, Tensor) else found.weight
        assert isinstance(stored, Tensor)
        return stored

    def project(
        self,
        owner: nn.Module,
        roles: Sequence[Role],
        values: Float[Tensor, "rows inputs"],
        expert: int | None = None,
    ) -> list[Tensor]:
        """Project rows by several roles; each leaf that some of them share computes once."""
        outputs: dict[tuple[str, ...], Tensor] = {}
        results = []
        for role in roles:
            slot = self.slots[Part(role, expert)]
            if slot.is_bare:
                results.append(self._project_bare(owner, Part(role, expert), values))
                continue
            if slot.path not in outputs:
                outputs[slot.path] = find(owner, slot.path)(values)
            whole = outputs[slot.path]
            results.append(whole if slot.rows is None else _take(whole, slot.rows, -1))
        return results

    def _project_bare(self, owner: nn.Module, part: Part, values: Tensor) -> Tensor:
        bias = None
        if part in self.biases:
            bias = _rows_of(owner, self.biases[part]).reshape(-1)
        return F.linear(values, _rows_of(owner, self.slots[part]), bias)


def _rows_of(owner: nn.Module, slot: Slot) -> Tensor:
    """A role's rows of a bare parameter, in which experts may be stacked."""
    stored = _gathered(find(owner, slot.path))
    if stored.dim() == 3:
        stored = stored.flatten(0, 1)
    return stored if slot.rows is None else _take(stored, slot.rows, 0)


def project_by(
    values: Float[Tensor, "rows inputs"],
    table: Float[Tensor, "outputs inputs"],
    bias: Float[Tensor, " outputs"] | None = None,
) -> Float[Tensor, "rows outputs"]:
    """Project rows by a bare matrix; one that tensor parallelism splits stays split meanwhile."""
    bias = None if bias is None else _gathered(bias)
    if _is_plain(table):
        return F.linear(values, table, bias)
    from torch.distributed.tensor import DTensor, Replicate

    # On a mesh of more dimensions, rows differ between some of its processes.
    if not isinstance(table, DTensor) or table.device_mesh.ndim > 1:
        return F.linear(values, _gathered(table), bias)
    shared = DTensor.from_local(values, table.device_mesh, [Replicate()], run_check=False)
    split: Any = F.linear(shared, table)
    whole: Tensor = split.full_tensor()
    return whole if bias is None else whole + bias


def _gathered(stored: Tensor) -> Tensor:
    """Make a parameter whole that lies across processes."""
    if _is_plain(stored):
        return stored
    from torch.distributed.tensor import DTensor

    return stored.full_tensor() if isinstance(stored, DTensor) else stored


def _is_plain(stored: Tensor) -> bool:
    return type(stored) in (Tensor, nn.Parameter)


def _take(values: Tensor, rows: slice | Tensor, axis: int) -> Tensor:
    if isinstance(rows, Tensor):
        return values.index_select(axis, rows.to(values.device))
    return values[rows] if axis == 0 else values[..., rows]


def find(owner: nn.Module, path: Sequence[str]) -> Any:
    """Follow names down from a module; what PEFT has put in a place is what is found there."""
    found: Any = owner
    for name in path:
        found = getattr(found, name)
    return found


def plant(root: nn.Module, path: str, what: nn.Module | nn.Parameter) -> None:
    """Put a module or parameter at a dotted path, with containers on the way."""
    *parents, last = path.split(".")
    for number, name in enumerate(parents):
        if name not in root._modules:
            following = [*parents, last][number + 1]
            root.add_module(name, nn.ModuleList() if following.isdigit() else nn.Module())
        child = root._modules[name]
        assert child is not None
        root = child
    if isinstance(what, nn.Parameter):
        root.register_parameter(last, what)
    else:
        root.add_module(last, what)


def slots_of(places: Mapping[Weight, Place], prefix: str) -> Wiring:
    """Wire the roles of an owner at a dotted prefix; empty for the root.

    Raises:
        ValueError: a family names a weight of a layer outside its layer.
    """
    slots: dict[Part, Slot] = {}
    biases: dict[Part, Slot] = {}
    for weight, place in places.items():
        if prefix and not place.name.startswith(f"{prefix}."):
            raise ValueError(f"{weight.role} is named {place.name!r}, outside {prefix!r}.")
        path = tuple(place.name[len(prefix) + 1 if prefix else 0 :].split("."))
        part = Part(weight.role, weight.expert)
        is_bare = is_bare_parameter(weight, place)
        if is_bare and weight.part == "bias":
            biases[part] = Slot(path, _rows(place), is_bare)
        elif weight.part == "weight" or part not in slots:
            slots[part] = Slot(path if is_bare else path[:-1], _rows(place), is_bare)
    return Wiring(slots, biases)


def is_bare_parameter(weight: Weight, place: Place) -> bool:
    """Whether a weight is a parameter of its own, not that of a leaf module."""
    is_stacked = weight.expert is not None and len(place.shape) > len(weight.shape)
    return is_stacked or not place.name.endswith(f".{weight.part}")


def _rows(place: Place) -> Rows:
    if place.rows is None:
        return None
    first, count = int(place.rows[0]), len(place.rows)
    if np.array_equal(place.rows, np.arange(first, first + count)):
        return slice(first, first + count)
    return torch.from_numpy(place.rows.astype(np.int64))


def linear(
    shape: tuple[int, ...], *, is_transposed: bool, bias: bool, dtype: torch.dtype
) -> nn.Module:
    """A linear leaf, without memory for its parameters yet."""
    if is_transposed:
        return TransposedLinear(*shape, bias=bias, dtype=dtype)
    return nn.Linear(shape[1], shape[0], bias=bias, device="meta", dtype=dtype)
