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
    "NativeProgram",
    "StepArrays",
    "buffer_shapes",
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


def buffer_shapes(program: Sequence[ops.Op]) -> dict[str, BufferShape]:
    """Work out every buffer's shape from the operations that write it, in order of appearance.

    Raises:
        ValueError: an operation reads a buffer that nothing wrote before.
    """
    shapes: dict[str, BufferShape] = {}
    for op in program:
        for name in _read_buffers(op):
            if name not in shapes:
                raise ValueError(f"{op!r} reads buffer {name!r}, which nothing has written.")
        written = _written_shape(op, shapes)
        if written is not None:
            name = op.output  # type: ignore[union-attr]
            before = shapes.get(name, written)
            columns = max(before.columns, written.columns)
            shapes[name] = BufferShape(columns, before.has_token_rows)
    return shapes


_READ_FIELDS = ("input", "buffer", "angles", "router", "time_step", "parameters", "gate")


def _read_buffers(op: ops.Op) -> list[str]:
    names = [getattr(op, field) for field in _READ_FIELDS if hasattr(op, field)]
    adds = isinstance(op, ops.Add | ops.Experts | ops.Inject)
    if adds or (isinstance(op, ops.AddPositions) and op.accumulates):
        names.append(op.output)
    return names


def _written_shape(op: ops.Op, shapes: Mapping[str, BufferShape]) -> BufferShape | None:
    """Shape of what an operation writes to its `output`; None when it only changes columns."""
    match op:
        case ops.Embed():
            return BufferShape(op.table.inputs, has_token_rows=True)
        case ops.AddPositions():
            return BufferShape(op.table.shape[1], has_token_rows=True)
        case ops.Angles():
            return BufferShape(2 * len(op.frequencies), has_token_rows=True)
        case ops.Attention():
            return BufferShape(op.heads * op.head_dim, has_token_rows=True)
        case ops.Convolution():
            return BufferShape(len(op.weight), has_token_rows=True)
        case ops.SelectiveScan():
            return BufferShape(len(op.matrix), has_token_rows=True)
        case ops.RMSNorm() | ops.LayerNorm() | ops.Scale() | ops.Add() | ops.Experts():
            return shapes[op.input]
        case ops.Linear():
            return BufferShape(op.column + op.weights.outputs, shapes[op.input].has_token_rows)
        case ops.Gate():
            return BufferShape(shapes[op.input].columns // 2, shapes[op.input].has_token_rows)
        case ops.Copy():
            return BufferShape(op.width, shapes[op.input].has_token_rows)
        case ops.Gather() | ops.Pool():
            return BufferShape(shapes[op.input].columns, has_token_rows=False)
        case _:
            return None


class NativeProgram:
    """Runs a list of operations on the native core, over its own buffers and paged cache.

    Args:
        program: Operations in order; the first writes the residual stream.
        context: Positions there are.
        vocabulary: Token ids there are.
        cache_blocks: Blocks of 16 tokens in the paged cache.
        cache_type: `float32` or `float16`.
        step_tokens: Tokens one step may hold.
        logit_rows: Rows of logits one step may ask for.
        pool: Threads; shared between programs.
        kernels: `auto`, or an instruction set by name.
    """

    def __init__(
        self,
        program: Sequence[ops.Op],
        *,
        context: int,
        vocabulary: int,
        cache_blocks: int,
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
            cache_blocks=cache_blocks,
            cache_type=cache_type,
            kernels=kernels,
            pool=pool or _native.Pool(),
        )
        self.buffers: Mapping[str, int] = {
            name: self._native.add_buffer(shape.has_token_rows, shape.columns)
            for name, shape in buffer_shapes(program).items()
        }
        tables: dict[int, _native.Table] = {}
        for op in program:
            if isinstance(op, ops.WriteKV):
                self._native.add_cache_layer(op.kv_heads, op.head_dim)
            self._append(op, tables)
        self._native.finish()

    @property
    def core(self) -> _native.Program:
        """The native object, for sampling over its logits."""
        return self._native

    @property
    def block_bytes(self) -> int:
        """Bytes one cache block takes over all layers."""
        return self._native.block_bytes

    def run(self, step: StepArrays) -> None:
        """Run one step; results stay in the buffers until the next.

        Raises:
            ValueError: a token, position, block or row is out of range.
        """
        self._native.run(
            step.tokens,
            step.starts,
            step.lengths,
            step.block_tables,
            step.logit_rows,
            step.inject_rows,
            step.inject_values,
        )

    def view(self, buffer: str, rows: int) -> ops.FloatArray:
        """The first rows of a buffer, without copying; the next step overwrites them."""
        return self._native.view(self.buffers[buffer], rows)

    def _append(self, op: ops.Op, tables: dict[int, _native.Table]) -> None:
        """Hand one operation to the core; equal arrays become one shared table."""
        native, at = self._native, self.buffers
        match op:
            case ops.Embed():
                native.embed(_packed(op.table), at[op.output])
            case ops.Inject():
                native.inject(at[op.output])
            case ops.RMSNorm():
                native.rms_norm(at[op.input], at[op.output], op.weight, op.epsilon)
            case ops.LayerNorm():
                native.layer_norm(at[op.input], at[op.output], op.weight, op.bias, op.epsilon)
            case ops.Linear():
                native.linear(
                    at[op.input],
                    at[op.output],
                    _packed(op.weights),
                    op.bias,
                    op.column,
                    op.accumulates,
                )
            case ops.Rotary():
                for array in (op.cosine, op.sine):
                    if id(array) not in tables:
                        tables[id(array)] = _native.Table(array)
                cosine, sine = tables[id(op.cosine)], tables[id(op.sine)]
                native.rotary(at[op.buffer], op.column, op.heads, op.head_dim, cosine, sine)
            case ops.WriteKV():
                native.write_kv(
                    at[op.input],
                    op.layer,
                    op.key_column,
                    op.value_column,
                    op.kv_heads,
                    op.head_dim,
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
                )
            case ops.SiluGate():
                native.silu_gate(at[op.input], at[op.output])
            case ops.Gather():
                native.gather(at[op.input], at[op.output])


def _packed(weights: ops.Weights) -> _native.Linear:
    if not isinstance(weights, _native.Linear):
        raise TypeError(f"the native core runs packed weights, not {type(weights).__name__}.")
    return weights
