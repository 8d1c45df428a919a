"""The meaning of every operation, in NumPy: slow, plain, and what the native core is tested by.

`ReferenceProgram` runs the same list of operations as the native core, in float64 where the
native core rounds to float32. Weights are unpacked to float32; a layer with 4- or 8-bit weights
sees its input rounded to 8 bits, as the native core's does.

Legend: T tokens of a step, S sequences, H heads, D head size.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from yearling.kernels import ops
from yearling.kernels import reference_operations as meaning
from yearling.kernels.program import BLOCK_TOKENS, StepArrays, buffer_shapes

__all__ = ["ReferenceProgram"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class ReferenceProgram:
    """Runs operations as `kernels.program.NativeProgram` does, over the same paged cache.

    Args:
        program: Operations in order.
        cache_blocks: Blocks of 16 tokens, per cache group.
        state_slots: Sequences whose states can be kept.
        cache_type: `float32`, `float16` or `bfloat16`.
    """

    def __init__(
        self,
        program: Sequence[ops.Op],
        *,
        cache_blocks: Sequence[int] = (),
        state_slots: int = 0,
        cache_type: str = "float32",
    ) -> None:
        self._program = program
        self._shapes = buffer_shapes(program)
        self._buffers: dict[str, Floats] = {}
        self._cache: dict[int, tuple[Floats, Floats]] = {}
        self._past_inputs: dict[int, Floats] = {}
        self._states: dict[int, Floats] = {}
        self._blocks, self._slots = cache_blocks, state_slots
        self._narrow: Callable[[Floats], Floats] = partial(_narrowed, cache_type=cache_type)
        self._rounds_queries = cache_type == "bfloat16"

    def run(self, step: StepArrays) -> None:
        """Run one step; results stay in the buffers until the next."""
        for name, shape in self._shapes.items():
            rows = len(step.tokens) if shape.has_token_rows else len(step.logit_rows)
            self._buffers[name] = np.zeros((rows, shape.columns))
        sequences = _sequences(step)
        for op in self._program:
            self._run(op, step, sequences)

    def view(self, buffer: str, rows: int) -> Floats:
        """The first rows of a buffer."""
        return self._buffers[buffer][:rows]

    def _run(self, op: ops.Op, step: StepArrays, sequences: "list[_Sequence]") -> None:
        at = self._buffers
        match op:
            case ops.Embed():
                at[op.output][:] = op.table.unpack()[step.tokens] * np.float64(op.scale)
            case ops.Inject():
                if step.inject_rows is not None:
                    at[op.output][step.inject_rows] = step.inject_values
            case ops.AddPositions():
                rows = op.table[_joined(sequences, op.channel) + op.offset]
                at[op.output][:] = at[op.output] + rows if op.accumulates else rows
            case ops.Linear():
                target = at[op.output][:, op.column : op.column + op.weights.outputs]
                result = _projected(at[op.input], op.weights, is_added=op.accumulates)
                result = result if op.bias is None else result + op.bias
                target[:] = target + result if op.accumulates else result
            case ops.Angles():
                positions, lengths = _joined(sequences, op.channel), _joined(sequences, "length")
                at[op.output][:] = meaning.angles(op, positions, lengths)
            case ops.LogScale():
                columns = at[op.buffer][:, op.column : op.column + op.width]
                columns[:] = meaning.log_scale(columns, _joined(sequences, "token"), op.trained)
            case ops.WriteKV():
                self._write_kv(op, sequences)
            case ops.Attention():
                self._attention(op, sequences)
            case ops.Experts():
                self._experts(op)
            case ops.Convolution():
                self._convolution(op, sequences)
            case ops.SelectiveScan():
                self._scan(op, sequences)
            case ops.Gather():
                at[op.output][:] = at[op.input][step.logit_rows]
            case ops.Pool():
                self._pool(op, step, sequences)
            case _:
                self._run_row_by_row(op)

    def _run_row_by_row(self, op: ops.Op) -> None:
        """Operations that know nothing of sequences and positions."""
        at = self._buffers
        match op:
            case ops.RMSNorm():
                at[op.output][:] = meaning.rms_norm(at[op.input], op.weight, op.epsilon)
            case ops.LayerNorm():
                at[op.output][:] = meaning.layer_norm(at[op.input], op.weight, op.bias, op.epsilon)
            case ops.HeadNorm():
                heads = _heads(at[op.buffer], op)
                if op.kind == "rms":
                    heads[:] = meaning.rms_norm(heads, op.weight, op.epsilon)
                else:
                    heads[:] = meaning.layer_norm(heads, op.weight, op.bias, op.epsilon)
            case ops.Rotary():
                heads = _heads(at[op.buffer], op)
                turns = at[op.angles]
                heads[:] = meaning.rotated(heads, turns, layout=op.layout, offset=op.offset)
            case ops.Clamp():
                columns = at[op.buffer][:, op.column : op.column + op.width]
                np.clip(columns, -op.limit, op.limit, out=columns)
            case ops.Activate():
                at[op.buffer][:] = meaning.activated(at[op.buffer], op.activation)
            case ops.Gate():
                at[op.output][:] = meaning.gate(at[op.input], op.activation)
            case ops.Copy():
                at[op.output][:] = at[op.input][:, op.column : op.column + op.width]
            case ops.Scale():
                at[op.output][:] = at[op.input] * op.factor
            case ops.Add():
                at[op.output][:] += at[op.input] * op.factor
            case ops.SoftCap():
                at[op.buffer][:] = op.cap * np.tanh(at[op.buffer] / op.cap)
            case _:
                raise AssertionError(op)

    def _write_kv(self, op: ops.WriteKV, sequences: "list[_Sequence]") -> None:
        shape = (self._blocks[op.group] * BLOCK_TOKENS, op.kv_heads, op.head_dim)
        keys, values = self._cache.setdefault(op.layer, (np.zeros(shape), np.zeros(shape)))
        source, width = self._buffers[op.input], op.kv_heads * op.head_dim
        places = np.concatenate(
            [sequence.places(op.group, sequence.token) for sequence in sequences]
        )
        for cache, column in ((keys, op.key_column), (values, op.value_column)):
            rows = source[:, column : column + width].reshape(-1, op.kv_heads, op.head_dim)
            cache[places] = self._narrow(rows)

    def _attention(self, op: ops.Attention, sequences: "list[_Sequence]") -> None:
        keys, values = self._cache[op.layer]
        width = op.heads * op.head_dim
        for sequence in sequences:
            queries = self._buffers[op.input][sequence.rows, :width]
            queries = queries.reshape(-1, op.heads, op.head_dim)
            if self._rounds_queries:
                queries = self._narrow(queries)
            ends = sequence.length if op.sees_prefix else sequence.token + 1
            first = 0 if op.window is None else max(0, int(ends.min()) - op.window)
            seen = sequence.places(op.group, np.arange(first, ends.max()))
            result = meaning.attention(
                op, queries, keys[seen], values[seen],
                positions=sequence.token, ends=ends, first_key=first,
            )  # fmt: skip
            self._buffers[op.output][sequence.rows] = result.reshape(-1, width)

    def _experts(self, op: ops.Experts) -> None:
        source, target = self._buffers[op.input], self._buffers[op.output]
        choices = meaning.expert_choice(op, self._buffers[op.router])
        for number, chosen in enumerate(choices):
            for expert, weight in chosen:
                hidden = _projected(source[number : number + 1], op.first[expert])
                activate = meaning.gate if op.is_gated else meaning.activated
                result = _projected(
                    activate(hidden, op.activation), op.second[expert], is_added=True
                )
                target[number] += weight * result[0]

    def _convolution(self, op: ops.Convolution, sequences: "list[_Sequence]") -> None:
        inner, taps = op.weight.shape
        past = self._past_inputs.setdefault(op.layer, np.zeros((self._slots, taps - 1, inner)))
        for sequence in sequences:
            values = self._buffers[op.input][sequence.rows, :inner]
            before = past[sequence.slot] if sequence.token[0] else np.zeros((taps - 1, inner))
            self._buffers[op.output][sequence.rows] = meaning.convolution(op, values, before)
            both = np.concatenate([before, values])
            past[sequence.slot] = both[len(both) - (taps - 1) :]

    def _scan(self, op: ops.SelectiveScan, sequences: "list[_Sequence]") -> None:
        at = self._buffers
        inner, num_states = op.matrix.shape
        states = self._states.setdefault(op.layer, np.zeros((self._slots, inner, num_states)))
        for sequence in sequences:
            rows = sequence.rows
            y, states[sequence.slot] = meaning.selective_scan(
                op,
                at[op.input][rows],
                at[op.time_step][rows],
                at[op.parameters][rows, op.input_column : op.input_column + num_states],
                at[op.parameters][rows, op.output_column : op.output_column + num_states],
                states[sequence.slot] if sequence.token[0] else np.zeros((inner, num_states)),
            )
            gate = at[op.gate][rows, op.gate_column : op.gate_column + inner]
            at[op.output][rows] = y * meaning.activated(gate, "silu")

    def _pool(self, op: ops.Pool, step: StepArrays, sequences: "list[_Sequence]") -> None:
        source, target = self._buffers[op.input], self._buffers[op.output]
        for number, wanted in enumerate(step.logit_rows):
            (rows,) = (s.rows for s in sequences if s.rows.start <= wanted < s.rows.stop)
            vectors = source[rows]
            vector = {"mean": vectors.mean(axis=0), "first": vectors[0], "last": vectors[-1]}
            target[number] = vector[op.kind]
            if op.is_normalised:
                target[number] /= max(float(np.linalg.norm(target[number])), 1e-12)


@dataclass(frozen=True)
class _Sequence:
    """One sequence of a step; position arrays have one entry per token.

    `length` is one past the last key a prefix mask shows, and the length rotations stretch by.
    """

    number: int
    rows: slice
    slot: int
    step: StepArrays
    token: Ints
    span: Ints
    block: Ints
    length: Ints

    def places(self, group: int, positions: Ints) -> Ints:
        """Rows of the cache group that hold these positions."""
        table = self.step.tables[group]
        indices = positions // BLOCK_TOKENS - int(table.first_blocks[self.number])
        assert indices.min() >= 0, "a block that the sequence has dropped is wanted"
        blocks = table.blocks[self.number][indices].astype(np.int64)
        return np.asarray(blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS)


def _sequences(step: StepArrays) -> list[_Sequence]:
    ends = list(accumulate(int(length) for length in step.lengths))
    sequences = []
    for number, (start, length) in enumerate(zip(step.starts, step.lengths, strict=True)):
        prefix = 0 if step.prefixes is None else int(step.prefixes[number])
        token = np.arange(start, start + length, dtype=np.int64)
        is_prefix = token < prefix
        sequence = _Sequence(
            number=number,
            rows=slice(ends[number] - int(length), ends[number]),
            slot=0 if step.slots is None else int(step.slots[number]),
            step=step,
            token=token,
            span=np.where(is_prefix, token, max(prefix - 1, 0)),
            block=np.where(is_prefix, 0, token - prefix + 1),
            length=np.maximum(prefix, token + 1),
        )
        sequences.append(sequence)
    return sequences


def _joined(sequences: list[_Sequence], name: str) -> Ints:
    """One position of every token of the step (T,)."""
    return np.concatenate([getattr(sequence, name) for sequence in sequences])


def _heads(buffer: Floats, op: ops.HeadNorm | ops.Rotary) -> Floats:
    """The heads of a buffer's columns, as a view (T, H, D)."""
    columns = buffer[:, op.column : op.column + op.heads * op.head_dim]
    return columns.reshape(len(buffer), op.heads, op.head_dim)


def _projected(values: Floats, weights: ops.Weights, *, is_added: bool = False) -> Floats:
    if weights.kind in ("int4", "int8"):
        values = meaning.quantised_rows(values, is_added=is_added)
    return np.asarray(values @ weights.unpack().astype(np.float64).T)


def _narrowed(values: Floats, cache_type: str) -> Floats:
    if cache_type != "bfloat16":
        return values.astype(cache_type).astype(np.float64)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))
    return (rounded & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)
