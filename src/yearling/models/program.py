"""A model as a flat list of native operations: the interpreter of specs that serves.

`compile_program` walks a `ModelSpec`, packs each weight into the native core's layout, and
emits the operations of one step. Projections that read the same input are packed as one matrix:
queries, keys and values; gate and up.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from yearling.core.errors import UnsupportedError
from yearling.kernels import _native, ops
from yearling.models.checkpoint import Checkpoint, StoredTensor
from yearling.models.checkpoint.formats import to_float32
from yearling.models.families import families
from yearling.models.rotary import rotary_tables
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Rotary,
    Serial,
)
from yearling.models.weights import Role

__all__ = ["CompiledModel", "WeightKind", "compile_program"]

WeightKind = Literal["auto", "float32", "float16", "int8", "int4"]

_EXACT_KINDS = {
    "Q4_0": "int4",
    "Q4_1": "int4",
    "Q8_0": "int8",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
}


@dataclass(frozen=True, slots=True)
class CompiledModel:
    """Operations of a model's step, ready for `kernels.program.NativeProgram`.

    Attributes:
        operations: In order; logits end up in buffer `logits`.
        context: Positions the rotary tables cover.
        weight_bytes: Size of all packed weights.
        is_quantized: Whether any linear layer computes on 8-bit activations.
    """

    operations: tuple[ops.Op, ...]
    context: int
    weight_bytes: int
    is_quantized: bool


def compile_program(
    checkpoint: Checkpoint,
    *,
    weights: WeightKind = "auto",
    context: int | None = None,
    threads: int = 2,
) -> CompiledModel:
    """Pack a checkpoint's weights and list the operations of a step.

    Args:
        checkpoint: Opened model files.
        weights: `auto` keeps the files' quantisation codes and 16-bit values; block formats
            the core has no layout for become float16. Any other kind converts every matrix.
        context: Positions to prepare for; None takes the model's own.
        threads: Threads that read and pack.

    Raises:
        UnsupportedError: the spec has a part the native core does not compute.
        ModelFormatError: a tensor cannot be read.
    """
    with ThreadPoolExecutor(threads) as pool:
        return _Compiler(checkpoint, weights, context, pool).compile()


class _Compiler:
    def __init__(
        self,
        checkpoint: Checkpoint,
        weights: WeightKind,
        context: int | None,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._checkpoint = checkpoint
        self._spec: ModelSpec = checkpoint.spec
        self._names = families.get(self._spec.family).weights
        self._has = frozenset(checkpoint.tensor_names())
        self._weights = weights
        self._context = context or self._spec.context
        self._pool = pool
        self._tables: dict[Rotary, tuple[ops.FloatArray, ops.FloatArray]] = {}
        self._matrices: list[_native.Linear] = []

    def compile(self) -> CompiledModel:
        spec = self._spec
        head = _require_plain(spec)
        # Weights are packed by the pool while later operations are still being listed.
        table = self._matrix(None, ("embedding",))
        emitted: list[ops.Op | Callable[[], Iterable[ops.Op]]] = [
            lambda: (ops.Embed(_only(table()), "residual"), ops.Inject("residual"))
        ]
        for number, layer in enumerate(spec.layers):
            emitted.append(self._layer(number, layer))
        output = table if head.is_tied else self._matrix(None, ("head",))
        bias = self._bias(None, ("head",)) if head.has_bias else None
        emitted.append(ops.Gather("residual", "gathered"))
        if spec.final_norm is not None:
            emitted.append(self._norm(None, "final_norm", spec.final_norm, "gathered", "final"))
        source = "gathered" if spec.final_norm is None else "final"
        emitted.append(lambda: (ops.Linear(source, "logits", _only(output()), bias),))
        operations = tuple(op for item in emitted for op in (item() if callable(item) else (item,)))
        return CompiledModel(
            operations=operations,
            context=self._context,
            weight_bytes=sum(matrix.nbytes for matrix in self._matrices),
            is_quantized=any(matrix.kind.startswith("int") for matrix in self._matrices),
        )

    def _layer(self, number: int, layer: LayerSpec) -> Callable[[], Iterable[ops.Op]]:
        attention, mlp, residual = _require_serial(self._spec, number, layer)
        qkv = self._matrix(number, ("query", "key", "value"))
        out = self._matrix(number, ("output",))
        gate_up = self._matrix(number, ("gate", "up"))
        down = self._matrix(number, ("down",))
        qkv_bias = self._bias(number, ("query", "key", "value")) if attention.has_qkv_bias else None
        out_bias = self._bias(number, ("output",)) if attention.has_output_bias else None
        gate_bias = self._bias(number, ("gate", "up")) if mlp.has_bias else None
        has_down_bias = mlp.has_bias if mlp.has_down_bias is None else mlp.has_down_bias
        down_bias = self._bias(number, ("down",)) if has_down_bias else None
        mixer_norm = self._norm(number, "mixer_norm", residual.mixer_norm, "residual", "normed")
        assert residual.mlp_norm is not None
        mlp_norm = self._norm(number, "mlp_norm", residual.mlp_norm, "residual", "normed")

        def emit() -> Iterable[ops.Op]:
            yield mixer_norm
            yield from _projections("normed", "qkv", qkv(), qkv_bias)
            yield from self._attend(number, attention)
            yield ops.Linear("attended", "residual", _only(out()), out_bias, accumulates=True)
            yield mlp_norm
            yield from _projections("normed", "gate_up", gate_up(), gate_bias)
            yield ops.SiluGate("gate_up", "activated")
            yield ops.Linear("activated", "residual", _only(down()), down_bias, accumulates=True)

        return emit

    def _attend(self, number: int, attention: Attention) -> Iterable[ops.Op]:
        heads, kv_heads, size = attention.heads, attention.kv_heads, attention.head_dim
        if isinstance(attention.positions, Rotary):
            cosine, sine = self._rotary_tables(attention.positions)
            # Keys follow queries, so one pass rotates both.
            yield ops.Rotary("qkv", 0, heads + kv_heads, size, cosine, sine)
        key_column, value_column = heads * size, (heads + kv_heads) * size
        yield ops.WriteKV("qkv", number, key_column, value_column, kv_heads, size)
        scale = attention.scale if attention.scale is not None else 1 / math.sqrt(size)
        yield ops.Attention("qkv", "attended", number, heads, kv_heads, size, scale)

    def _rotary_tables(self, rotary: Rotary) -> tuple[ops.FloatArray, ops.FloatArray]:
        if rotary not in self._tables:
            self._tables[rotary] = rotary_tables(rotary, self._context)
        return self._tables[rotary]

    def _norm(
        self, layer: int | None, role: Role, norm: Norm, source: str, target: str
    ) -> ops.RMSNorm | ops.LayerNorm:
        width = self._spec.width
        weight = self._vector(layer, role, "weight") if norm.has_weight else np.ones(width, "f4")
        weight = (weight + np.float32(norm.weight_offset)).astype(np.float32)
        if norm.kind == "rms":
            return ops.RMSNorm(source, target, weight, norm.epsilon)
        bias = self._vector(layer, role, "bias") if norm.has_bias else None
        return ops.LayerNorm(source, target, weight, bias, norm.epsilon)

    def _bias(self, layer: int | None, roles: tuple[Role, ...]) -> ops.FloatArray:
        return np.concatenate([self._vector(layer, role, "bias") for role in roles])

    def _vector(self, layer: int | None, role: Role, part: str) -> ops.FloatArray:
        return to_float32(self._checkpoint.tensor(self._name(layer, role, part))).reshape(-1)

    def _name(self, layer: int | None, role: Role, part: str) -> str:
        return f"{self._names[role].hugging_face.format(layer=layer)}.{part}"

    def _matrix(
        self, layer: int | None, roles: tuple[Role, ...]
    ) -> Callable[[], list[_native.Linear]]:
        """Start packing matrices that share an input; one matrix when their kinds agree."""
        names = [self._name(layer, role, "weight") for role in roles]
        packing = self._pool.submit(self._pack, names)

        def packed() -> list[_native.Linear]:
            return packing.result()

        return packed

    def _pack(self, names: list[str]) -> list[_native.Linear]:
        tensors = [self._checkpoint.tensor(name) for name in names]
        kinds = [_kind_of(tensor, self._weights) for tensor in tensors]
        is_one = len(set(kinds)) == 1
        groups = [tensors] if is_one else [[tensor] for tensor in tensors]
        matrices = [
            _pack_rows(group, kind)
            for group, kind in zip(groups, kinds[:1] if is_one else kinds, strict=True)
        ]
        self._matrices.extend(matrices)
        return matrices


def _only(matrices: list[_native.Linear]) -> _native.Linear:
    """The one matrix of a list of one."""
    (matrix,) = matrices
    return matrix


def _projections(
    source: str, target: str, matrices: list[_native.Linear], bias: ops.FloatArray | None
) -> Iterable[ops.Op]:
    column = 0
    for matrix in matrices:
        part = None if bias is None else bias[column : column + matrix.outputs]
        yield ops.Linear(source, target, matrix, part, column)
        column += matrix.outputs


def _kind_of(tensor: StoredTensor, wanted: WeightKind) -> str:
    if wanted != "auto":
        return wanted
    return _EXACT_KINDS.get(tensor.format, "float16")


def _pack_rows(tensors: list[StoredTensor], kind: str) -> _native.Linear:
    outputs, inputs = sum(tensor.shape[0] for tensor in tensors), tensors[0].shape[1]
    packed = _native.Linear(kind, outputs, inputs)
    first = 0
    for tensor in tensors:
        rows = tensor.shape[0]
        keeps_codes = _EXACT_KINDS.get(tensor.format) == kind
        is_plain = tensor.format in ("F32", "F16", "BF16")
        if keeps_codes or (is_plain and kind != "bfloat16"):
            packed.pack(first, rows, tensor.format, tensor.data.reshape(-1))
        else:
            values = np.ascontiguousarray(to_float32(tensor), np.float32)
            packed.pack(first, rows, "F32", values.view(np.uint8).reshape(-1))
        first += rows
    return packed


_UNSUPPORTED_EMBEDDING: Mapping[str, object] = {
    field: getattr(Embedding(), field)
    for field in ("scale", "positions", "block_positions", "token_types", "norm", "projection")
}


def _require_plain(spec: ModelSpec) -> Head:
    for field, usual in _UNSUPPORTED_EMBEDDING.items():
        value = getattr(spec.embedding, field)
        if value != usual:
            raise _unsupported(spec, f"embedding.{field}={value!r}")
    if not isinstance(spec.head, Head):
        raise _unsupported(spec, "a pooling head")
    if spec.head.is_normalised or spec.head.scale != 1.0 or spec.head.soft_cap is not None:
        raise _unsupported(spec, f"head {spec.head!r}")
    return spec.head


def _require_serial(
    spec: ModelSpec, number: int, layer: LayerSpec
) -> tuple[Attention, Gated, Serial]:
    """Refuse, by name, every part of a layer that no operation computes yet."""
    attention, mlp, residual = layer.mixer, layer.mlp, layer.residual
    where = f"layer {number}"
    if not isinstance(attention, Attention):
        raise _unsupported(spec, f"{where}: a {type(attention).__name__} mixer")
    if not isinstance(mlp, Gated) or mlp.activation != "silu":
        raise _unsupported(spec, f"{where}: MLP {mlp!r}")
    if not isinstance(residual, Serial) or residual.multiplier != 1.0 or not residual.mlp_norm:
        raise _unsupported(spec, f"{where}: residual layout {residual!r}")
    usual = Attention(
        heads=attention.heads,
        kv_heads=attention.kv_heads,
        head_dim=attention.head_dim,
        positions=attention.positions,
        has_qkv_bias=attention.has_qkv_bias,
        has_output_bias=attention.has_output_bias,
        scale=attention.scale,
    )
    if attention != usual:
        raise _unsupported(spec, f"{where}: attention {attention!r}")
    if not isinstance(attention.positions, Rotary) or attention.positions.layout != "half":
        raise _unsupported(spec, f"{where}: positions {attention.positions!r}")
    return attention, mlp, residual


def _unsupported(spec: ModelSpec, what: str) -> UnsupportedError:
    return UnsupportedError(
        f"the native executor does not compute {what} of family {spec.family!r} yet."
    )
