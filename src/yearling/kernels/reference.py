"""The meaning of every operation, in NumPy: slow, plain, and what the native core is tested by.

`ReferenceProgram` runs the same list of operations as the native core, in float64 where the
native core rounds to float32. Weights are unpacked to float32; a layer with 4- or 8-bit weights
sees its input rounded to 8 bits, as the native core's does.

Legend: T tokens of a step, S sequences, H heads, D head size, V vocabulary.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from yearling.kernels import ops
from yearling.kernels.program import BLOCK_TOKENS, StepArrays, buffer_shapes

__all__ = [
    "ReferenceProgram",
    "SamplingOptions",
    "attention",
    "filtered_weights",
    "layer_norm",
    "log_softmax",
    "penalised",
    "quantised_rows",
    "rms_norm",
    "rotated",
    "sample",
    "silu_gate",
    "uniform",
]

Floats = NDArray[np.float64]
_GROUP = 32
_OUTLIER_RATIO = 3.0


def _floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float64)


# ---- operations on arrays ----------------------------------------------------------------


def quantised_rows(values: Floats) -> Floats:
    """Round inputs (rows, inputs) to 8 bits, but for outliers.

    Each group of 32 is rounded to 127ths of its largest magnitude. When that exceeds three
    times the row's root mean square, it is left exact, and the next largest sets the scale.
    """
    rows, inputs = values.shape
    groups = np.zeros((rows, -(-inputs // _GROUP), _GROUP), np.float32)
    groups.reshape(rows, -1)[:, :inputs] = values
    limit = _OUTLIER_RATIO * np.sqrt(np.mean(groups.reshape(rows, -1)[:, :inputs] ** 2, axis=-1))
    largest = np.abs(groups).argmax(axis=-1)[..., None]
    apart = np.take_along_axis(groups, largest, axis=-1)
    apart = np.where(np.abs(apart) > limit[:, None, None], apart, np.float32(0))
    outliers = np.zeros_like(groups)
    np.put_along_axis(outliers, largest, apart, axis=-1)
    rest = groups - outliers
    most = np.abs(rest).max(axis=-1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(most > 0, np.float32(127) / most, np.float32(0))
    scale = (most / np.float32(127)).astype(np.float64)
    rounded = np.rint(rest * inverse) * scale + outliers
    return _floats(rounded.reshape(rows, -1)[:, :inputs])


def rms_norm(values: Floats, weight: NDArray[np.float32], epsilon: float) -> Floats:
    """Compute values / sqrt(mean(values²) + epsilon) · weight, over the last axis."""
    mean_square = np.mean(values**2, axis=-1, keepdims=True)
    return _floats(values / np.sqrt(mean_square + epsilon) * weight)


def layer_norm(
    values: Floats, weight: NDArray[np.float32], bias: NDArray[np.float32] | None, epsilon: float
) -> Floats:
    """(values - mean) / sqrt(variance + epsilon) · weight + bias, over the last axis."""
    mean = np.mean(values, axis=-1, keepdims=True)
    variance = np.var(values, axis=-1, keepdims=True)
    normed = (values - mean) / np.sqrt(variance + epsilon) * weight
    return _floats(normed if bias is None else normed + bias)


def silu_gate(values: Floats) -> Floats:
    """silu(first half of the columns) · second half."""
    gate, up = np.split(values, 2, axis=-1)
    return _floats(gate / (1 + np.exp(-gate)) * up)


def rotated(heads: Floats, cosine: NDArray[np.float32], sine: NDArray[np.float32]) -> Floats:
    """Rotate pairs (i, i + dims/2); heads are (T, H, D), tables (T, dims/2)."""
    half = cosine.shape[-1]
    first, second, rest = heads[..., :half], heads[..., half : 2 * half], heads[..., 2 * half :]
    c, s = cosine[:, None, :], sine[:, None, :]
    return np.concatenate([first * c - second * s, second * c + first * s, rest], axis=-1)


def attention(queries: Floats, keys: Floats, values: Floats, start: int, scale: float) -> Floats:
    """Causal grouped-query attention of one sequence.

    Args:
        queries: (T, H, D), at positions `start` on.
        keys: (start + T, kv heads, D).
        values: The same shape as keys.
        start: Position of the first query.
        scale: Factor on scores.
    """
    shared = queries.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, shared, axis=1), np.repeat(values, shared, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) * scale
    visible = np.arange(len(keys))[None, :] <= start + np.arange(len(queries))[:, None]
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return _floats(np.einsum("hqk,khd->qhd", weights, values))


# ---- sampling ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How to choose a token; the meaning of each field is `SamplingParams`'."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0
    output_index: int = 0
    history: Sequence[int] = ()
    num_generated: int = 0
    logit_bias: Mapping[int, float] = field(default_factory=dict)


def uniform(seed: int, index: int) -> float:
    """Draw from [0, 1) with 53 bits: Philox4x32-10 keyed by the seed, at counter (index, 0).

    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
    """
    mask = 0xFFFFFFFF
    counter = [index & mask, index >> 32 & mask, 0, 0]
    key = [seed & mask, seed >> 32 & mask]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [
            (b >> 32) ^ counter[1] ^ key[0],
            b & mask,
            (a >> 32) ^ counter[3] ^ key[1],
            a & mask,
        ]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return ((counter[0] << 32 | counter[1]) >> 11) / 2**53


def log_softmax(logits: Floats) -> Floats:
    """Log-probabilities in nats, over the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return _floats(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


def penalised(logits: Floats, options: SamplingOptions) -> Floats:
    """Logits (V,) after repetition, presence and frequency penalties and bias."""
    changed = logits.copy()
    for token in set(options.history):
        factor = options.repetition_penalty
        changed[token] *= 1 / factor if changed[token] > 0 else factor
    generated = list(options.history)[len(options.history) - options.num_generated :]
    for token in set(generated):
        changed[token] -= options.presence_penalty
        changed[token] -= options.frequency_penalty * generated.count(token)
    for token, bias in options.logit_bias.items():
        changed[token] += bias
    return changed


def filtered_weights(logits: Floats, options: SamplingOptions) -> Floats:
    """Weights (V,) after temperature, top-k, top-p and min-p; the likeliest token has 1."""
    weights = np.exp((logits - logits.max()) / options.temperature)
    order = np.lexsort((np.arange(len(weights)), -weights))  # ties to the lower id
    if options.top_k:
        weights[order[options.top_k :]] = 0
    if options.top_p < 1:
        held = np.cumsum(weights[order])
        enough = int(np.searchsorted(held, options.top_p * held[-1]))
        weights[order[enough + 1 :]] = 0
    weights[weights < options.min_p] = 0
    return _floats(weights)


def sample(logits: Floats, options: SamplingOptions) -> int:
    """Choose a token: one draw through the cumulative weights in order of ids."""
    logits = penalised(logits, options)
    if options.temperature == 0:
        return int(np.argmax(logits))
    held = np.cumsum(filtered_weights(logits, options))
    wanted = uniform(options.seed, options.output_index) * held[-1]
    return int(np.searchsorted(held, wanted, side="right"))


# ---- programs ----------------------------------------------------------------------------


class ReferenceProgram:
    """Runs operations as `kernels.program.NativeProgram` does, over the same paged cache.

    Args:
        program: Operations in order.
        cache_blocks: Blocks of 16 tokens.
        cache_type: `float32` or `float16`.
    """

    def __init__(
        self, program: Sequence[ops.Op], *, cache_blocks: int, cache_type: str = "float32"
    ) -> None:
        self._program = program
        self._shapes = buffer_shapes(program)
        self._buffers: dict[str, Floats] = {}
        self._cache: dict[int, tuple[Floats, Floats]] = {}
        self._blocks = cache_blocks
        self._narrow: Callable[[Floats], Floats] = lambda x: x.astype(cache_type).astype(np.float64)

    def run(self, step: StepArrays) -> None:
        """Run one step; results stay in the buffers until the next."""
        for name, shape in self._shapes.items():
            rows = len(step.tokens) if shape.has_token_rows else len(step.logit_rows)
            self._buffers[name] = np.zeros((rows, shape.columns))
        for op in self._program:
            self._run(op, step)

    def view(self, buffer: str, rows: int) -> Floats:
        """The first rows of a buffer."""
        return self._buffers[buffer][:rows]

    def _run(self, op: ops.Op, step: StepArrays) -> None:
        at = self._buffers
        match op:
            case ops.Embed():
                at[op.output][:] = op.table.unpack()[step.tokens]
            case ops.Inject():
                if step.inject_rows is not None:
                    at[op.output][step.inject_rows] = step.inject_values
            case ops.RMSNorm():
                at[op.output][:] = rms_norm(at[op.input], op.weight, op.epsilon)
            case ops.LayerNorm():
                at[op.output][:] = layer_norm(at[op.input], op.weight, op.bias, op.epsilon)
            case ops.Linear():
                self._linear(op)
            case ops.Rotary():
                self._rotary(op, step)
            case ops.WriteKV():
                self._write_kv(op, step)
            case ops.Attention():
                self._attention(op, step)
            case ops.SiluGate():
                at[op.output][:] = silu_gate(at[op.input])
            case ops.Gather():
                at[op.output][:] = at[op.input][step.logit_rows]

    def _linear(self, op: ops.Linear) -> None:
        values = self._buffers[op.input]
        if op.weights.kind in ("int4", "int8"):
            values = quantised_rows(values)
        result = values @ op.weights.unpack().astype(np.float64).T
        if op.bias is not None:
            result += op.bias
        target = self._buffers[op.output][:, op.column : op.column + op.weights.outputs]
        target[:] = target + result if op.accumulates else result

    def _rotary(self, op: ops.Rotary, step: StepArrays) -> None:
        positions = _positions(step)
        columns = slice(op.column, op.column + op.heads * op.head_dim)
        buffer = self._buffers[op.buffer]
        heads = buffer[:, columns].reshape(len(positions), op.heads, op.head_dim)
        turned = rotated(heads, op.cosine[positions], op.sine[positions])
        buffer[:, columns] = turned.reshape(len(positions), -1)

    def _write_kv(self, op: ops.WriteKV, step: StepArrays) -> None:
        shape = (self._blocks * BLOCK_TOKENS, op.kv_heads, op.head_dim)
        keys, values = self._cache.setdefault(op.layer, (np.zeros(shape), np.zeros(shape)))
        source, width = self._buffers[op.input], op.kv_heads * op.head_dim
        slots = np.concatenate([_slots(step, number)[1] for number in range(len(step.starts))])
        for cache, column in ((keys, op.key_column), (values, op.value_column)):
            rows = source[:, column : column + width].reshape(-1, op.kv_heads, op.head_dim)
            cache[slots] = self._narrow(rows)

    def _attention(self, op: ops.Attention, step: StepArrays) -> None:
        keys, values = self._cache[op.layer]
        width, first = op.heads * op.head_dim, 0
        for number, (start, length) in enumerate(zip(step.starts, step.lengths, strict=True)):
            seen, _ = _slots(step, number)
            rows = slice(first, first + length)
            queries = self._buffers[op.input][rows, :width].reshape(length, op.heads, op.head_dim)
            result = attention(queries, keys[seen], values[seen], int(start), op.scale)
            self._buffers[op.output][rows] = result.reshape(length, width)
            first += length


def _positions(step: StepArrays) -> NDArray[np.int64]:
    spans = zip(step.starts, step.lengths, strict=True)
    return np.concatenate([np.arange(start, start + length) for start, length in spans])


def _slots(step: StepArrays, number: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cache rows of all a sequence's tokens, and of those of this step."""
    start, length = int(step.starts[number]), int(step.lengths[number])
    positions = np.arange(start + length)
    blocks = step.block_tables[number][positions // BLOCK_TOKENS].astype(np.int64)
    slots = blocks * BLOCK_TOKENS + positions % BLOCK_TOKENS
    return slots, slots[start:]
