"""A step program on the native core: the list of operations, built once and run many times."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yearling.kernels import _native, ops

__all__ = [
    "BLOCK_TOKENS",
    "BufferShape",
    "GroupTables",
    "LowRankUpdate",
    "NativeProgram",
    "StepArrays",
    "buffer_shapes",
    "read_buffers",
]

BLOCK_TOKENS = 16
"""Tokens per cache block; fixed in the native core."""

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class BufferShape:
    """Columns of a buffer, and whether its rows are the step's tokens or its logit rows."""

    columns: int
    has_token_rows: bool


@dataclass(frozen=True, slots=True)
class GroupTables:
    """Where the sequences of a step keep the keys and values of one cache group.

    Attributes:
        blocks: Cache blocks in order (S, most blocks), padded with 0.
        first_blocks: Blocks of each sequence that were dropped before the first one here (S,):
            token i lies in blocks[s, i // 16 - first_blocks[s]].
    """

    blocks: Ints
    first_blocks: Ints


@dataclass(frozen=True, slots=True)
class StepArrays:
    """One step's inputs; T tokens of S sequences.

    Attributes:
        tokens: Ids (T,), sequence after sequence.
        starts: Position of each sequence's first token in this step (S,).
        lengths: Tokens of each sequence in this step (S,).
        tables: Per cache group with blocks.
        logit_rows: Rows of the step whose logits are wanted.
        prefixes: Tokens of each sequence's prefix (S,); None has none.
        slots: State slot of each sequence (S,); None when the program keeps no states.
        inject_rows: Rows whose embedding the caller gives, or None.
        inject_values: Those embeddings (rows, E), or None.
        adapters: Number of each sequence's adapter (S,), -1 for none; None for none anywhere.
    """

    tokens: Ints
    starts: Ints
    lengths: Ints
    tables: tuple[GroupTables, ...]
    logit_rows: Ints
    prefixes: Ints | None = None
    slots: Ints | None = None
    inject_rows: Ints | None = None
    inject_values: ops.FloatArray | None = None
    adapters: Ints | None = None


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """What an adapter adds to one linear operation: for each part, second @ (first @ input).

    Attributes:
        linear: Number of the operation among the program's linear ones.
        first: The parts' first matrices one below the other (R, inputs).
        parts: Of each part its first output, which is a multiple of 8, its first row of `first`,
            and its second matrix (outputs, rank).
    """

    linear: int
    first: ops.FloatArray
    parts: tuple[tuple[int, int, ops.FloatArray], ...]


def buffer_shapes(program: Sequence[ops.Op]) -> dict[str, BufferShape]:
    """Work out every buffer's shape from the operations that write it, in order of appearance.

    Raises:
        ValueError: an operation reads a buffer that nothing wrote before.
    """
    shapes: dict[str, BufferShape] = {}
    for op in program:
        for name in read_buffers(op):
            if name not in shapes:
                raise ValueError(f"{op!r} reads buffer {name!r}, which nothing has written.")
        written = _written(op, shapes)
        if written is not None:
            name, shape = written
            before = shapes.get(name, shape)
            columns = max(before.columns, shape.columns)
            shapes[name] = BufferShape(columns, before.has_token_rows)
    return shapes


_READ_FIELDS = ("input", "buffer", "angles", "router", "time_step", "parameters", "gate")


def read_buffers(op: ops.Op) -> list[str]:
    """Names of the buffers whose contents an operation uses."""
    names = [getattr(op, field) for field in _READ_FIELDS if hasattr(op, field)]
    match op:
        case (
            ops.Add()
            | ops.Experts()
            | ops.Inject()
            | ops.AddPositions(accumulates=True)
            | ops.Linear(accumulates=True)
        ):
            names.append(op.output)
    return names


def _written(op: ops.Op, shapes: Mapping[str, BufferShape]) -> tuple[str, BufferShape] | None:
    """Name and shape of what an operation writes; None when it changes a buffer in place."""
    match op:
        case ops.Embed():
            return op.output, BufferShape(op.table.inputs, has_token_rows=True)
        case ops.AddPositions():
            return op.output, BufferShape(op.table.shape[1], has_token_rows=True)
        case ops.Angles():
            return op.output, BufferShape(2 * len(op.frequencies), has_token_rows=True)
        case ops.Attention():
            return op.output, BufferShape(op.heads * op.head_dim, has_token_rows=True)
        case ops.Convolution():
            return op.output, BufferShape(len(op.weight), has_token_rows=True)
        case ops.SelectiveScan():
            return op.output, BufferShape(len(op.matrix), has_token_rows=True)
        case ops.RMSNorm() | ops.LayerNorm() | ops.Scale() | ops.Add() | ops.Experts():
            return op.output, shapes[op.input]
        case ops.Linear():
            return op.output, BufferShape(
                op.column + op.weights.outputs, shapes[op.input].has_token_rows
            )
        case ops.Gate():
            return op.output, BufferShape(
                shapes[op.input].columns // 2, shapes[op.input].has_token_rows
            )
        case ops.Copy():
            return op.output, BufferShape(op.width, shapes[op.input].has_token_rows)
        case ops.Gather() | ops.Pool():
            return op.output, BufferShape(shapes[op.input].columns, has_token_rows=False)
        case _:
            return None


class NativeProgram:
    """Runs a list of operations on the native core, over its own buffers and paged cache.

    Args:
        program: Operations in order; the first writes the residual stream.
        context: Positions there are.
        vocabulary: Token ids there are.
        cache_blocks: Blocks of 16 tokens in the paged cache, per cache group.
        state_slots: Sequences whose states (`Convolution`, `SelectiveScan`) can be kept.
        cache_type: `float32`, `float16` or `bfloat16`.
        step_tokens: Tokens one step may hold.
        logit_rows: Rows of logits one step may ask for.
        pool: Threads; shared between programs.
        kernels: `auto`, or an instruction set by name.

    Raises:
        ValueError: an operation does not fit its buffers, its weights or the limits.
    """

    def __init__(
        self,
        program: Sequence[ops.Op],
        *,
        context: int,
        vocabulary: int,
        cache_blocks: Sequence[int] = (),
        state_slots: int = 0,
        cache_type: str = "float32",
        step_tokens: int = 512,
        logit_rows: int = 128,
        pool: _native.Pool | None = None,
        kernels: str = "auto",
    ) -> None:
        self._native = _native.Program(
            step_tokens=step_tokens,
            logit_rows=logit_rows,
            context=context,
            vocabulary=vocabulary,
            cache_blocks=list(cache_blocks),
            state_slots=state_slots,
            cache_type=cache_type,
            kernels=kernels,
            pool=pool or _native.Pool(),
        )
        self.buffers: Mapping[str, int] = {
            name: self._native.add_buffer(shape.has_token_rows, shape.columns)
            for name, shape in buffer_shapes(program).items()
        }
        builder = _Builder(self._native, self.buffers)
        for op in program:
            builder.append(op)
        self._native.finish()

    @property
    def core(self) -> _native.Program:
        """The native object, for sampling over its logits."""
        return self._native

    @property
    def block_bytes(self) -> Sequence[int]:
        """Bytes that one cache block of each group takes over all its layers."""
        return self._native.block_bytes

    @property
    def slot_bytes(self) -> int:
        """Bytes that the states of one sequence take over all layers."""
        return self._native.slot_bytes

    def run(self, step: StepArrays) -> None:
        """Run one step; results stay in the buffers until the next.

        Raises:
            ValueError: a token, position, block, slot or row is out of range, or a prefix that
                all its tokens see is not whole.
        """
        self._native.run(
            step.tokens,
            step.starts,
            step.lengths,
            [table.blocks for table in step.tables],
            [table.first_blocks for table in step.tables],
            step.logit_rows,
            step.prefixes,
            step.slots,
            step.inject_rows,
            step.inject_values,
            step.adapters,
        )

    def set_adapter(
        self, number: int, updates: Sequence[LowRankUpdate], kind: str = "float32"
    ) -> None:
        """Let sequences name an adapter; no updates free its place. Not while a step runs.

        Args:
            number: By which steps name it.
            updates: At most one per linear operation.
            kind: `float32` or `float16`, how its matrices are kept.

        Raises:
            ValueError: a matrix does not fit its operation.
        """
        self._native.set_adapter(
            number,
            [
                (
                    update.linear,
                    _rows(update.first, kind),
                    [(column, row, _pack(second, kind)) for column, row, second in update.parts],
                )
                for update in updates
            ],
        )

    def view(self, buffer: str, rows: int) -> ops.FloatArray:
        """The first rows of a buffer, without copying; the next step overwrites them."""
        return self._native.view(self.buffers[buffer], rows)


class _Builder:
    """Hands operations to the core, which knows buffers by number."""

    def __init__(self, native: _native.Program, buffers: Mapping[str, int]) -> None:
        self._native = native
        self._at = buffers
        self._tables: dict[int, _native.Table] = {}

    def append(self, op: ops.Op) -> None:
        match op:
            case ops.Linear() | ops.Experts():
                self._append_product(op)
            case ops.AddPositions() | ops.Angles() | ops.Rotary() | ops.LogScale():
                self._append_position(op)
            case ops.WriteKV() | ops.Attention() | ops.Convolution() | ops.SelectiveScan():
                self._append_mixer(op)
            case ops.Activate() | ops.Gate() | ops.Clamp() | ops.SoftCap():
                self._append_activation(op)
            case _:
                self._append_row_operation(op)

    def _append_product(self, op: ops.Linear | ops.Experts) -> None:
        native, at = self._native, self._at
        match op:
            case ops.Linear():
                native.linear(
                    at[op.input],
                    at[op.output],
                    _packed(op.weights),
                    op.bias,
                    op.column,
                    op.accumulates,
                )
            case ops.Experts():
                native.experts(
                    at[op.input],
                    at[op.router],
                    at[op.output],
                    [_packed(weights) for weights in op.first],
                    [_packed(weights) for weights in op.second],
                    op.activation,
                    op.is_gated,
                    op.active,
                    op.router_kind,
                    op.is_renormalised,
                )

    def _append_position(
        self, op: ops.AddPositions | ops.Angles | ops.Rotary | ops.LogScale
    ) -> None:
        native, at = self._native, self._at
        match op:
            case ops.AddPositions():
                table = self._table(op.table)
                native.add_positions(at[op.output], table, op.offset, op.channel, op.accumulates)
            case ops.Angles():
                stretch = op.stretch or ops.Stretch("dynamic_ntk", 1.0, 1)
                native.angles(
                    at[op.output],
                    op.frequencies,
                    op.factor,
                    op.channel,
                    stretch=op.stretch.kind if op.stretch else "none",
                    base=stretch.base,
                    trained=stretch.trained,
                    stretch_factor=stretch.factor,
                    has_length_factor=stretch.has_length_factor,
                )
            case ops.Rotary():
                native.rotary(
                    at[op.buffer],
                    at[op.angles],
                    op.column,
                    op.heads,
                    op.head_dim,
                    op.layout,
                    op.offset,
                )
            case ops.LogScale():
                native.log_scale(at[op.buffer], op.column, op.width, op.trained)

    def _append_mixer(
        self, op: ops.WriteKV | ops.Attention | ops.Convolution | ops.SelectiveScan
    ) -> None:
        native, at = self._native, self._at
        match op:
            case ops.WriteKV():
                native.add_cache_layer(op.group, op.kv_heads, op.head_dim)
                native.write_kv(
                    at[op.input],
                    op.layer,
                    op.key_column,
                    op.value_column,
                    op.kv_heads,
                    op.head_dim,
                    op.group,
                )
            case ops.Attention():
                native.attention(
                    at[op.input],
                    at[op.output],
                    op.layer,
                    op.heads,
                    op.kv_heads,
                    op.head_dim,
                    op.scale,
                    op.group,
                    op.window,
                    op.sees_prefix,
                    op.soft_cap,
                    op.slopes,
                )
            case ops.Convolution():
                native.convolution(at[op.input], at[op.output], op.weight, op.bias)
            case ops.SelectiveScan():
                native.selective_scan(
                    at[op.input],
                    at[op.time_step],
                    at[op.parameters],
                    op.input_column,
                    op.output_column,
                    at[op.gate],
                    op.gate_column,
                    at[op.output],
                    op.matrix,
                    op.skip,
                )

    def _append_activation(self, op: ops.Activate | ops.Gate | ops.Clamp | ops.SoftCap) -> None:
        native, at = self._native, self._at
        match op:
            case ops.Activate():
                native.activate(at[op.buffer], op.activation)
            case ops.Gate():
                native.gate(at[op.input], at[op.output], op.activation)
            case ops.Clamp():
                native.clamp(at[op.buffer], op.column, op.width, op.limit)
            case ops.SoftCap():
                native.soft_cap(at[op.buffer], op.cap)

    def _append_row_operation(self, op: ops.Op) -> None:
        native, at = self._native, self._at
        match op:
            case ops.Embed():
                native.embed(_packed(op.table), at[op.output], op.scale)
            case ops.Inject():
                native.inject(at[op.output])
            case ops.RMSNorm():
                native.rms_norm(at[op.input], at[op.output], op.weight, op.epsilon)
            case ops.LayerNorm():
                native.layer_norm(at[op.input], at[op.output], op.weight, op.bias, op.epsilon)
            case ops.HeadNorm():
                native.head_norm(
                    at[op.buffer],
                    op.column,
                    op.heads,
                    op.head_dim,
                    op.kind,
                    op.weight,
                    op.bias,
                    op.epsilon,
                )
            case ops.Copy():
                native.copy(at[op.input], at[op.output], op.column)
            case ops.Scale():
                native.scale(at[op.input], at[op.output], op.factor)
            case ops.Add():
                native.add(at[op.input], at[op.output], op.factor)
            case ops.Gather():
                native.gather(at[op.input], at[op.output])
            case ops.Pool():
                native.pool(at[op.input], at[op.output], op.kind, op.is_normalised)
            case _:
                raise AssertionError(op)

    def _table(self, array: ops.FloatArray) -> _native.Table:
        """Arrays that several operations read are kept once."""
        if id(array) not in self._tables:
            self._tables[id(array)] = _native.Table(array)
        return self._tables[id(array)]


def _rows(matrix: ops.FloatArray, kind: str) -> "ops.FloatArray | NDArray[np.uint16]":
    if kind == "float32":
        return np.ascontiguousarray(matrix, np.float32)
    return np.ascontiguousarray(matrix, np.float16).view(np.uint16)


def _pack(matrix: ops.FloatArray, kind: str) -> _native.Linear:
    packed = _native.Linear(kind, *matrix.shape)
    values = np.ascontiguousarray(matrix, np.float32)
    packed.pack(0, len(matrix), "F32", values.view(np.uint8).reshape(-1))
    return packed


def _packed(weights: ops.Weights) -> _native.Linear:
    if not isinstance(weights, _native.Linear):
        raise TypeError(f"the native core runs packed weights, not {type(weights).__name__}.")
    return weights
