"""Building blocks of the definitions in NumPy: one sequence, float64, nothing clever.

Legend: T tokens, H heads, D head size, E width.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "alibi_slopes",
    "attend",
    "gelu_tanh",
    "layer_norm",
    "linear",
    "rms_norm",
    "rotate",
    "rotate_neighbours",
    "silu",
    "softmax",
    "split_heads",
]

Floats = NDArray[np.float64]


def linear(x: Floats, weight: Floats, bias: Floats | None = None) -> Floats:
    """x · weightᵀ + bias."""
    y = x @ weight.T
    return y if bias is None else y + bias


def rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    """Each row divided by the root of its mean square."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight  # type: ignore[no-any-return]


def layer_norm(x: Floats, weight: Floats, bias: Floats, epsilon: float) -> Floats:
    """Each row with mean 0 and variance 1."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred * centred).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + epsilon) * weight + bias  # type: ignore[no-any-return]


def gelu_tanh(x: Floats) -> Floats:
    """GELU by its tanh approximation."""
    inner = np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1 + np.tanh(inner))  # type: ignore[no-any-return]


def silu(x: Floats) -> Floats:
    """x · sigmoid(x)."""
    return x / (1 + np.exp(-x))


def softmax(x: Floats) -> Floats:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)  # type: ignore[no-any-return]


def split_heads(x: Floats, heads: int) -> Floats:
    """(T, H·D) -> (H, T, D)."""
    return x.reshape(len(x), heads, -1).swapaxes(0, 1)


def rotate(x: Floats, angles: Floats) -> Floats:
    """Turn pairs (i, i + dims/2) of the first dims dimensions of (H, T, D) by (T, dims/2)."""
    half = angles.shape[1]
    first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, rest], -1)


def rotate_neighbours(x: Floats, angles: Floats) -> Floats:
    """Turn pairs (2i, 2i + 1) of the first dims dimensions of (H, T, D) by (T, dims/2)."""
    dims = 2 * angles.shape[1]
    pairs, rest = x[..., :dims].reshape(*x.shape[:-1], -1, 2), x[..., dims:]
    cos, sin = np.cos(angles), np.sin(angles)
    turned = np.stack(
        [
            pairs[..., 0] * cos - pairs[..., 1] * sin,
            pairs[..., 1] * cos + pairs[..., 0] * sin,
        ],
        -1,
    )
    return np.concatenate([turned.reshape(*x.shape[:-1], dims), rest], -1)


def attend(
    queries: Floats,
    keys: Floats,
    values: Floats,
    *,
    bias: Floats | None = None,
    sees: NDArray[np.bool_] | None = None,
    scale: float | None = None,
) -> Floats:
    """Attention of (H, T, D) over as many or fewer key heads: (T, H·D).

    Args:
        bias: Added to the scores, (H, T, T) or (T, T).
        sees: Which keys (columns) each token sees; None is itself and what came before.
        scale: Factor on scores; None is 1/sqrt(D).
    """
    heads, num_tokens, head_dim = queries.shape
    keys, values = (x.repeat(heads // len(x), 0) for x in (keys, values))
    scores = queries @ keys.swapaxes(1, 2) * (scale or head_dim**-0.5)
    scores = scores if bias is None else scores + bias
    sees = np.tri(num_tokens, dtype=bool) if sees is None else sees
    mixed = softmax(np.where(sees, scores, -np.inf)) @ values
    return mixed.swapaxes(0, 1).reshape(num_tokens, -1)  # type: ignore[no-any-return]


def alibi_slopes(heads: int) -> Floats:
    """2^(-8h/H) for H a power of two; otherwise its neighbours' interleaved, as published."""
    lower = 2 ** int(np.log2(heads))
    slopes = 2.0 ** (-8.0 * np.arange(1, lower + 1) / lower)
    between = 2.0 ** (-4.0 * np.arange(1, 2 * lower + 1, 2) / lower)
    return np.concatenate([slopes, between[: heads - lower]])
