"""Weights of a checkpoint in the native core's layouts."""

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Literal

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.kernels import _native, ops
from yearling.models.checkpoint import Checkpoint, StoredTensor
from yearling.models.checkpoint.formats import to_float32
from yearling.models.checkpoint.repack import to_core_format
from yearling.models.weights import Role, Weight, weights_of

__all__ = ["Packer", "Part", "WeightKind"]

WeightKind = Literal["auto", "float32", "float16", "int8", "int4"]

Change = Callable[[ops.FloatArray], ops.FloatArray]

_EXACT_KINDS = {
    "Q4_0": "int4",
    "Q4_1": "int4",
    "Q8_0": "int8",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
}


@dataclass(frozen=True, slots=True)
class Part:
    """A matrix of the model that is some rows of a packed one.

    Attributes:
        layer: Number of its layer.
        role: Its part in the layer.
        outputs: Its rows.
    """

    layer: int
    role: Role
    outputs: int


class Packer:
    """Reads the weights a spec calls for, and packs matrices side by side.

    Args:
        checkpoint: Opened model files.
        weights: `auto` keeps the files' quantisation codes and 16-bit values; block formats the
            core has no layout for become float16. Any other kind converts every matrix.
        pool: Runs the packing while the caller goes on.
    """

    def __init__(self, checkpoint: Checkpoint, weights: WeightKind, pool: Executor) -> None:
        self._checkpoint = checkpoint
        self._weights = weights
        self._pool = pool
        self._index = {(w.role, w.layer, w.part, w.expert): w for w in weights_of(checkpoint.spec)}
        self._packing: list[Future[list[_native.Linear]]] = []

    def matrices(
        self,
        layer: int | None,
        roles: Sequence[Role],
        *,
        expert: int | None = None,
        kind: WeightKind | None = None,
        change: Change | None = None,
    ) -> Callable[[], list[_native.Linear]]:
        """Start packing matrices that share an input; they become one when their kinds agree.

        Args:
            layer: Layer number, or None outside the layers.
            roles: One below the other.
            expert: Number of the expert they belong to.
            kind: In place of the packer's own.
            change: Of each matrix, before it is packed.

        Returns:
            A function that waits for the packed matrices, in order.
        """
        wanted = [self._find(layer, role, "weight", expert) for role in roles]
        future = self._pool.submit(self._pack, wanted, kind or self._weights, change)
        self._packing.append(future)
        return future.result

    def vector(
        self, layer: int | None, role: Role, part: Literal["weight", "bias"]
    ) -> ops.FloatArray:
        """Read a vector, (width,)."""
        return self.array(layer, role, part).reshape(-1)

    def array(
        self, layer: int | None, role: Role, part: Literal["weight", "bias"] = "weight"
    ) -> ops.FloatArray:
        """Read a weight as float32 in its own shape."""
        return to_float32(self._checkpoint.weight(self._find(layer, role, part, None)))

    def bias(self, layer: int | None, roles: Sequence[Role]) -> ops.FloatArray | None:
        """Join the biases of several roles; None when none of them has one."""
        parts = []
        for role in roles:
            if (role, layer, "bias", None) in self._index:
                parts.append(self.vector(layer, role, "bias"))
            else:
                parts.append(np.zeros(self._find(layer, role, "weight", None).shape[0], np.float32))
        has_bias = any((role, layer, "bias", None) in self._index for role in roles)
        return np.concatenate(parts) if has_bias else None

    def parts(self, layer: int, roles: Sequence[Role]) -> tuple[Part, ...]:
        """What matrices of several roles are called, and their rows."""
        return tuple(
            Part(layer, role, self._find(layer, role, "weight", None).shape[0]) for role in roles
        )

    def packed(self) -> list[_native.Linear]:
        """All matrices packed so far, once they are."""
        return [matrix for future in self._packing for matrix in future.result()]

    def _find(
        self, layer: int | None, role: Role, part: Literal["weight", "bias"], expert: int | None
    ) -> Weight:
        weight = self._index.get((role, layer, part, expert))
        assert weight is not None, f"the spec calls for no {part} of {role} in layer {layer}"
        return weight

    def _pack(
        self, wanted: Sequence[Weight], kind: WeightKind, change: Change | None
    ) -> list[_native.Linear]:
        tensors = [self._checkpoint.weight(weight) for weight in wanted]
        if kind == "auto":  # any other kind starts from the exact numbers
            tensors = [to_core_format(tensor) for tensor in tensors]
        if change is not None:
            kind = "float16" if kind == "auto" and tensors[0].format != "F32" else kind
            tensors = [_changed(tensor, change) for tensor in tensors]
        kinds = [_EXACT_KINDS.get(t.format, "float16") if kind == "auto" else kind for t in tensors]
        is_one = len(set(kinds)) == 1
        groups = [tensors] if is_one else [[tensor] for tensor in tensors]
        return [_pack_rows(group, kind) for group, kind in zip(groups, kinds, strict=False)]


def _changed(tensor: StoredTensor, change: Change) -> StoredTensor:
    values = np.ascontiguousarray(change(to_float32(tensor)), np.float32)
    return StoredTensor("F32", values.shape, values.view(np.uint8).reshape(-1))


def _pack_rows(tensors: Sequence[StoredTensor], kind: str) -> _native.Linear:
    outputs, inputs = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
    packed = _native.Linear(kind, outputs, inputs)
    first = 0
    for tensor in tensors:
        keeps_codes = _EXACT_KINDS.get(tensor.format) == kind
        is_plain = tensor.format in ("F32", "F16", "BF16")
        if not keeps_codes and not (is_plain and kind != "bfloat16"):
            values = np.ascontiguousarray(to_float32(tensor), np.float32)
            tensor = StoredTensor("F32", tensor.shape, values.view(np.uint8).reshape(-1))
        try:
            packed.pack(first, tensor.shape[0], tensor.format, tensor.data.reshape(-1))
        except ValueError as error:
            raise ModelFormatError(f"a matrix of shape {tensor.shape}: {error}") from error
        first += tensor.shape[0]
    return packed
