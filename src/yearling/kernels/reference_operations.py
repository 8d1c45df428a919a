"""The arithmetic of every operation, in NumPy and float64: one plain function each.

Legend: T tokens, H heads, D head size, N states of a channel.
"""

import math

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from yearling.kernels import ops

__all__ = [
    "activated",
    "angles",
    "attention",
    "convolution",
    "expert_choice",
    "gate",
    "layer_norm",
    "log_scale",
    "quantised_rows",
    "rms_norm",
    "rotated",
    "selective_scan",
    "stretched_frequencies",
]

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]
Ints = NDArray[np.int64]
_CODE_REACH, _ADDED_REACH = 4, 6
_MOST_CODE = 32_000
_erfc = np.vectorize(math.erfc, otypes=[np.float64])


def _floats(values: npt.ArrayLike) -> Floats:
    return np.asarray(values, np.float64)


def quantised_rows(values: Floats, *, is_added: bool = False) -> Floats:
    """Round inputs (rows, inputs) to multiples of their row's scale.

    The scale is a 127th of four times the row's mean magnitude, of six times where the results
    are added to a residual, or a 32,000th of its largest magnitude if that is more, with the last
    16 bits of its float32 cut off.
    """
    reach = _ADDED_REACH if is_added else _CODE_REACH
    magnitudes = np.abs(values).astype(np.float32)
    usual = magnitudes.mean(axis=-1, keepdims=True) * np.float32(reach / 127)
    most = magnitudes.max(axis=-1, keepdims=True) / np.float32(_MOST_CODE)
    scale = np.maximum(usual, most)
    scale = (scale.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    with np.errstate(divide="ignore"):
        inverse = np.where(scale > 0, np.float32(1) / scale, np.float32(0))
    return _floats(np.rint(values.astype(np.float32) * inverse) * scale.astype(np.float64))


def rms_norm(values: Floats, weight: Floats32, epsilon: float) -> Floats:
    """Compute values / sqrt(mean(values²) + epsilon) · weight, over the last axis."""
    mean_square = np.mean(values**2, axis=-1, keepdims=True)
    return _floats(values / np.sqrt(mean_square + epsilon) * weight)


def layer_norm(values: Floats, weight: Floats32, bias: Floats32 | None, epsilon: float) -> Floats:
    """(values - mean) / sqrt(variance + epsilon) · weight + bias, over the last axis."""
    mean = np.mean(values, axis=-1, keepdims=True)
    variance = np.var(values, axis=-1, keepdims=True)
    normed = (values - mean) / np.sqrt(variance + epsilon) * weight
    return _floats(normed if bias is None else normed + bias)


def activated(values: Floats, activation: ops.Activation) -> Floats:
    """Apply the activation to every entry.

    `silu` is x·σ(x), `quick_gelu` x·σ(1.702x), `gelu` x·Φ(x), `gelu_tanh` its approximation
    x/2·(1 + tanh(√(2/π)·(x + 0.044715x³))).

    >>> activated(np.array([-1.0, 0.0, 2.0]), "relu_squared").tolist()
    [0.0, 0.0, 4.0]
    """
    match activation:
        case "silu":
            return _floats(values * _sigmoid(values))
        case "quick_gelu":
            return _floats(values * _sigmoid(1.702 * values))
        case "gelu":
            return _floats(values * _erfc(-values / math.sqrt(2)) / 2)
        case "gelu_tanh":
            inner = math.sqrt(2 / math.pi) * (values + 0.044715 * values**3)
            return _floats(values * _sigmoid(2 * inner))
        case "relu":
            return np.maximum(values, 0)
        case "relu_squared":
            return np.maximum(values, 0) ** 2


def _sigmoid(values: Floats) -> Floats:
    return _floats(np.exp(-np.logaddexp(0, -values)))


def gate(values: Floats, activation: ops.Activation) -> Floats:
    """activation(first half of the columns) · second half."""
    first, second = np.split(values, 2, axis=-1)
    return _floats(activated(first, activation) * second)


def stretched_frequencies(stretch: ops.Stretch, dims: int, length: int) -> tuple[Floats32, float]:
    """Work out the frequencies (dims/2,) at a sequence's length, and the factor on both tables."""
    ratio = length / stretch.trained
    if stretch.kind == "stepped_ntk":
        growth = max(2 ** math.ceil(math.log2(stretch.factor * max(ratio, 1.0)) + 1) - 1, 1.0)
    else:
        growth = stretch.factor * ratio - (stretch.factor - 1) if ratio > 1 else 1.0
    base = stretch.base * growth ** (dims / (dims - 2))
    factor = 0.1 * math.log(ratio) + 1 if stretch.has_length_factor and ratio > 1 else 1.0
    return (base ** (-np.arange(0, dims, 2) / dims)).astype(np.float32), factor


def angles(op: ops.Angles, positions: Ints, lengths: Ints) -> Floats:
    """Cosine, then sine, of position · frequency (T, dims); lengths are `Stretch`'s n (T,)."""
    rows = []
    for position, length in zip(positions, lengths, strict=True):
        frequencies, factor = op.frequencies, op.factor
        if op.stretch is not None:
            dims = 2 * len(op.frequencies)
            frequencies, growth = stretched_frequencies(op.stretch, dims, int(length))
            factor *= growth
        angle = (np.float32(position) * frequencies).astype(np.float64)
        rows.append(np.concatenate([np.cos(angle), np.sin(angle)]) * factor)
    return _floats(rows)


def rotated(
    heads: Floats, angles: Floats, *, layout: str = "half", offset: int = 0
) -> NDArray[np.float64]:
    """Rotate dims [offset, offset + dims) of each head; heads are (T, H, D), angles (T, dims)."""
    result = heads.copy()
    turned = result[..., offset : offset + angles.shape[-1]]
    half = angles.shape[-1] // 2
    c, s = angles[:, None, :half], angles[:, None, half:]
    if layout == "half":
        first, second = turned[..., :half], turned[..., half:]
    else:
        first, second = turned[..., 0::2], turned[..., 1::2]
    x, y = first.copy(), second.copy()
    first[:], second[:] = x * c - y * s, y * c + x * s
    return result


def log_scale(values: Floats, tokens: Ints, trained: int) -> Floats:
    """Multiply rows by max(1, ln(token + 1) / ln(trained))."""
    return _floats(values * np.maximum(1, np.log(tokens + 1) / math.log(trained))[:, None])


def attention(
    op: ops.Attention,
    queries: Floats,
    keys: Floats,
    values: Floats,
    *,
    positions: Ints,
    ends: Ints,
    first_key: int = 0,
) -> Floats:
    """Grouped-query attention of one sequence.

    Args:
        op: Scale, window, cap and slopes.
        queries: (T, H, D).
        keys: (keys, kv heads, D), of the tokens from `first_key` on.
        values: The same shape as keys.
        positions: Of the queries (T,).
        ends: One past the last key each query sees (T,).
        first_key: Position of the first key given.
    """
    shared = queries.shape[1] // keys.shape[1]
    keys, values = np.repeat(keys, shared, axis=1), np.repeat(values, shared, axis=1)
    scores = np.einsum("qhd,khd->hqk", queries, keys) * op.scale
    if op.soft_cap is not None:
        scores = op.soft_cap * np.tanh(scores / op.soft_cap)
    places = first_key + np.arange(len(keys))
    if op.slopes is not None:
        distance = places[None, :] - positions[:, None]
        scores = scores + op.slopes.astype(np.float64)[:, None, None] * distance
    visible = places[None, :] < ends[:, None]
    if op.window is not None:
        visible &= places[None, :] >= ends[:, None] - op.window
    scores = np.where(visible, scores, -np.inf)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return _floats(np.einsum("hqk,khd->qhd", weights, values))


def expert_choice(op: ops.Experts, logits: Floats) -> list[list[tuple[int, float]]]:
    """Choose experts by logits (T, count): per row (expert, weight), in order of experts."""
    rows = []
    for row in logits:
        chosen = np.lexsort((np.arange(len(row)), -row))[: op.active]
        weights = np.exp(row - row.max())
        if op.router_kind == "topk_softmax" or op.is_renormalised:
            weights /= weights[chosen].sum()
        else:
            weights /= weights.sum()
        rows.append([(int(expert), float(weights[expert])) for expert in sorted(chosen)])
    return rows


def convolution(op: ops.Convolution, values: Floats, before: Floats) -> Floats:
    """Causal convolution, then SiLU; values (T, inner) follow `before` (taps - 1, inner)."""
    inner, taps = op.weight.shape
    padded = np.concatenate([before, values])
    result = (
        np.zeros((len(values), inner)) if op.bias is None else np.tile(op.bias, (len(values), 1))
    )
    for k in range(taps):
        result = result + op.weight[:, k].astype(np.float64) * padded[k : k + len(values)]
    return activated(_floats(result), "silu")


def selective_scan(
    op: ops.SelectiveScan,
    x: Floats,
    time_step: Floats,
    inputs: Floats,
    outputs: Floats,
    state: Floats,
) -> tuple[Floats, Floats]:
    """Run the recurrence over one sequence, without the gate.

    Args:
        op: Matrix A and skip.
        x: (T, inner).
        time_step: Before softplus (T, inner).
        inputs: B (T, N).
        outputs: C (T, N).
        state: h before the first token (inner, N).

    Returns:
        y (T, inner), and h after the last token.
    """
    matrix, skip = op.matrix.astype(np.float64), op.skip.astype(np.float64)
    rows = []
    for row, step, b, c in zip(x, np.logaddexp(0, time_step), inputs, outputs, strict=True):
        state = np.exp(step[:, None] * matrix) * state + (step * row)[:, None] * b[None, :]
        rows.append(state @ c + skip * row)
    return _floats(rows), state
