"""The operations of a step, as data: what `models.program` emits and executors interpret.

A program is a list of these over named buffers of float32. A buffer has one row per token of
the step, except those after `Gather` and `Pool`, which have one per row whose result is wanted.
`kernels.reference` defines what each operation computes.

A token has three positions. `token` counts from the start of its sequence. A sequence may begin
with a prefix, its prompt say, of P tokens: `span` counts with `token` inside the prefix and stands
still at P - 1 behind it, and `block` is 0 inside the prefix and counts 1, 2, … behind it.

Legend: T tokens of a step, E width of the residual stream, H heads, D head size, N states.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Activate",
    "Activation",
    "Add",
    "AddPositions",
    "Angles",
    "Attention",
    "Channel",
    "Clamp",
    "Convolution",
    "Copy",
    "Embed",
    "Experts",
    "FloatArray",
    "Gate",
    "Gather",
    "HeadNorm",
    "Inject",
    "LayerNorm",
    "Linear",
    "LogScale",
    "Op",
    "Pool",
    "RMSNorm",
    "Rotary",
    "Scale",
    "SelectiveScan",
    "SoftCap",
    "Stretch",
    "Weights",
    "WriteKV",
]

FloatArray = NDArray[np.float32]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu_squared", "quick_gelu"]
Channel = Literal["token", "span", "block"]


class Weights(Protocol):
    """A packed matrix of (outputs, inputs)."""

    @property
    def kind(self) -> str:
        """`int4 int8 float16 bfloat16 float32`."""
        ...

    @property
    def outputs(self) -> int:
        """Number of rows."""
        ...

    @property
    def inputs(self) -> int:
        """Number of columns."""
        ...

    def unpack(self) -> FloatArray:
        """The matrix as float32."""
        ...


@dataclass(frozen=True, slots=True)
class Embed:
    """Row `token` of the table, times `scale`, per token."""

    table: Weights
    output: str
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Inject:
    """Rows that the caller gives replace those of `output`."""

    output: str


@dataclass(frozen=True, slots=True)
class AddPositions:
    """The row of a table at the token's position plus `offset`, added to `output` or put there.

    Attributes:
        table: (positions, E), at least context + offset of them.
        channel: Which of the token's positions.
        accumulates: False overwrites `output`, which need not have been written before.
    """

    output: str
    table: FloatArray
    offset: int = 0
    channel: Channel = "token"
    accumulates: bool = True


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """input / sqrt(mean(input²) + epsilon) · weight; `output` may be `input`."""

    input: str
    output: str
    weight: FloatArray
    epsilon: float


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(input - mean) / sqrt(variance + epsilon) · weight + bias; `output` may be `input`."""

    input: str
    output: str
    weight: FloatArray
    bias: FloatArray | None
    epsilon: float


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Norm in place of each of `heads` runs of `head_dim` columns from `column` on.

    Attributes:
        kind: `rms` or `layer`, as `RMSNorm` and `LayerNorm` compute.
        weight: (D,), the same for all heads.
        bias: (D,), only with `layer`.
    """

    buffer: str
    column: int
    heads: int
    head_dim: int
    kind: Literal["rms", "layer"]
    weight: FloatArray
    bias: FloatArray | None
    epsilon: float


@dataclass(frozen=True, slots=True)
class Linear:
    """output[:, column:column+outputs] = input @ weightsᵀ + bias, or added to it."""

    input: str
    output: str
    weights: Weights
    bias: FloatArray | None = None
    column: int = 0
    accumulates: bool = False


@dataclass(frozen=True, slots=True)
class Stretch:
    """How a rotary base grows with the length n of the sequence, n the larger of P and token + 1.

    `dynamic_ntk`: beyond the trained length the base is multiplied by
    (factor · n / trained - (factor - 1)) to the power of dims / (dims - 2).
    `stepped_ntk`: it is multiplied by max(2^ceil(log2(factor · max(n / trained, 1)) + 1) - 1, 1)
    to that power.

    Attributes:
        base: Base at and below the trained length.
        trained: Trained length in tokens.
        factor: Stretch; of `stepped_ntk`, at the trained length already.
        has_length_factor: Cosine and sine are multiplied by 0.1 · ln(n / trained) + 1 beyond the
            trained length.
    """

    kind: Literal["dynamic_ntk", "stepped_ntk"]
    base: float
    trained: int
    factor: float = 1.0
    has_length_factor: bool = False


@dataclass(frozen=True, slots=True)
class Angles:
    """Cosine, then sine, of position · frequency, times `factor`: columns (dims/2, dims/2).

    Position and frequency are multiplied in float32, as transformers does.

    Attributes:
        frequencies: (dims/2,).
        stretch: Replaces the frequencies by base^(-2i/dims) of the stretched base.
    """

    output: str
    frequencies: FloatArray
    factor: float = 1.0
    channel: Channel = "token"
    stretch: Stretch | None = None


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotates columns [offset, offset + dims) of each head by the token's angles.

    Attributes:
        buffer: Holds `heads` heads of `head_dim` columns from `column` on.
        angles: Buffer that `Angles` wrote; its width gives dims.
        layout: `half` pairs (i, i + dims/2), `interleaved` (2i, 2i + 1).
        offset: First rotated dimension of a head.
    """

    buffer: str
    angles: str
    column: int
    heads: int
    head_dim: int
    layout: Literal["half", "interleaved"] = "half"
    offset: int = 0


@dataclass(frozen=True, slots=True)
class LogScale:
    """Columns are multiplied by max(1, ln(token + 1) / ln(trained))."""

    buffer: str
    column: int
    width: int
    trained: int


@dataclass(frozen=True, slots=True)
class Clamp:
    """Columns are clamped to [-limit, limit]."""

    buffer: str
    column: int
    width: int
    limit: float


@dataclass(frozen=True, slots=True)
class WriteKV:
    """Keys and values of the step's tokens go to their places in the paged cache.

    Attributes:
        layer: Number of the cache's layer, in order of appearance from 0.
        group: Cache group, whose block table says where.
    """

    input: str
    layer: int
    key_column: int
    value_column: int
    kv_heads: int
    head_dim: int
    group: int = 0


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale · q·K + bias) · V over the sequence's cached keys that a token sees.

    A token sees the keys up to itself, with `sees_prefix` all keys of the prefix as well, and
    with a window only the last `window` of them, itself included. Queries are the first
    heads · head_dim columns of `input`.

    Attributes:
        layer: The cache's layer, as `WriteKV` numbers them.
        group: Cache group; a window's group may have dropped blocks behind the window.
        window: Tokens seen, or None; not together with `sees_prefix`.
        sees_prefix: Prefix mask; an encoder's sequences are all prefix. A step then holds a
            prefix whole.
        soft_cap: Scores become cap · tanh(score / cap) before the bias, or None.
        slopes: ALiBi (H,): slope · (key position - token position) is added to scores, or None.
    """

    input: str
    output: str
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float
    group: int = 0
    window: int | None = None
    sees_prefix: bool = False
    soft_cap: float | None = None
    slopes: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Activate:
    """The activation of every entry, in place."""

    buffer: str
    activation: Activation


@dataclass(frozen=True, slots=True)
class Gate:
    """activation(first half of the columns) · second half."""

    input: str
    output: str
    activation: Activation = "silu"


@dataclass(frozen=True, slots=True)
class Copy:
    """`width` columns of `input` from `column` on."""

    input: str
    output: str
    column: int
    width: int


@dataclass(frozen=True, slots=True)
class Scale:
    """factor · input; `output` may be `input`."""

    input: str
    output: str
    factor: float


@dataclass(frozen=True, slots=True)
class Add:
    """factor · input is added to `output`."""

    input: str
    output: str
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class SoftCap:
    """cap · tanh(entry / cap), in place."""

    buffer: str
    cap: float


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts: each row visits `active` of them; their results are added to `output`.

    Rows choose the experts of the largest router logits, ties to the lower number. Results are
    added in order of the experts' numbers.

    Attributes:
        router: Buffer of router logits (T, count).
        output: Not `input`, which all experts read.
        first: Per expert gate above up, (2 · hidden, E), or up alone.
        second: Per expert (E, hidden).
        is_gated: Whether `first` holds a gate.
        router_kind: `topk_softmax` takes the softmax over the chosen logits, `softmax_topk` over
            all of them before choosing.
        is_renormalised: With `softmax_topk`, the chosen weights are divided by their sum.
    """

    input: str
    router: str
    output: str
    first: tuple[Weights, ...]
    second: tuple[Weights, ...]
    activation: Activation
    is_gated: bool
    active: int
    router_kind: Literal["topk_softmax", "softmax_topk"] = "topk_softmax"
    is_renormalised: bool = True


@dataclass(frozen=True, slots=True)
class Convolution:
    """Causal convolution along each sequence of the first `inner` columns, then SiLU.

    output[t, c] = silu(bias[c] + Σ_k weight[c, k] · input[t - taps + 1 + k, c]); the inputs of
    earlier steps are kept in the sequence's state slot, and are zero before its start.

    Attributes:
        layer: Number of the state layer, in order of appearance of convolutions from 0.
        weight: (inner, taps).
        bias: (inner,), or None.
    """

    input: str
    output: str
    layer: int
    weight: FloatArray
    bias: FloatArray | None


@dataclass(frozen=True, slots=True)
class SelectiveScan:
    """Mamba's recurrence, gated, over each sequence; its state is kept in a state slot.

    With Δ = softplus(time_step), B and C the columns of `parameters` from `input_column` and
    `output_column` on: h = exp(Δ·A)·h + Δ·B·x; y = C·h + skip·x;
    output = y · silu(gate), where the gate is `gate`'s columns from `gate_column` on.

    Attributes:
        input: x, (T, inner).
        layer: Number of the state layer; the convolution of the same number came before.
        matrix: A, negative, (inner, N).
        skip: (inner,).
    Source: Gu and Dao 2023, arXiv:2312.00752, algorithm 2.
    """

    input: str
    time_step: str
    parameters: str
    input_column: int
    output_column: int
    gate: str
    gate_column: int
    output: str
    layer: int
    matrix: FloatArray
    skip: FloatArray


@dataclass(frozen=True, slots=True)
class Gather:
    """The rows whose logits are wanted."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Pool:
    """One vector for each wanted row's sequence: the mean, first or last of its rows in the step.

    Attributes:
        is_normalised: Divided by its length, which is taken as at least 1e-12.
    """

    input: str
    output: str
    kind: Literal["mean", "first", "last"]
    is_normalised: bool


Op = (
    Embed
    | Inject
    | AddPositions
    | RMSNorm
    | LayerNorm
    | HeadNorm
    | Linear
    | Angles
    | Rotary
    | LogScale
    | Clamp
    | WriteKV
    | Attention
    | Activate
    | Gate
    | Copy
    | Scale
    | Add
    | SoftCap
    | Experts
    | Convolution
    | SelectiveScan
    | Gather
    | Pool
)
