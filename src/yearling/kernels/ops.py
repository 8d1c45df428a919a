"""The operations of a step, as data: what `models.program` emits and executors interpret.

A program is a list of these over named buffers of float32. A buffer has one row per token of
the step, except those after `Gather`, which have one per row whose logits are wanted.
`kernels.reference` defines what each operation computes.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Attention",
    "Embed",
    "FloatArray",
    "Gather",
    "Inject",
    "LayerNorm",
    "Linear",
    "Op",
    "RMSNorm",
    "Rotary",
    "SiluGate",
    "Weights",
    "WriteKV",
]

FloatArray = NDArray[np.float32]


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
    """Row `token` of the table, per token."""

    table: Weights
    output: str


@dataclass(frozen=True, slots=True)
class Inject:
    """Rows that the caller gives replace those of `output`."""

    output: str


@dataclass(frozen=True, slots=True)
class RMSNorm:
    """input / sqrt(mean(input²) + epsilon) · weight."""

    input: str
    output: str
    weight: FloatArray
    epsilon: float


@dataclass(frozen=True, slots=True)
class LayerNorm:
    """(input - mean) / sqrt(variance + epsilon) · weight + bias."""

    input: str
    output: str
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
class Rotary:
    """Rotates pairs (i, i + dims/2) of each head by the angle of the token's position.

    Attributes:
        cosine: (context, dims/2), shared by all layers.
        sine: (context, dims/2).
    """

    buffer: str
    column: int
    heads: int
    head_dim: int
    cosine: FloatArray
    sine: FloatArray


@dataclass(frozen=True, slots=True)
class WriteKV:
    """Keys and values of the step's tokens go to their places in the paged cache."""

    input: str
    layer: int
    key_column: int
    value_column: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Attention:
    """softmax(scale · q·K) · V over the sequence's cached keys up to the token itself.

    Queries are the first heads·head_dim columns of `input`.
    """

    input: str
    output: str
    layer: int
    heads: int
    kv_heads: int
    head_dim: int
    scale: float


@dataclass(frozen=True, slots=True)
class SiluGate:
    """silu(first half of the columns) · second half."""

    input: str
    output: str


@dataclass(frozen=True, slots=True)
class Gather:
    """The rows whose logits are wanted."""

    input: str
    output: str


Op = (
    Embed | Inject | RMSNorm | LayerNorm | Linear | Rotary | WriteKV | Attention | SiluGate | Gather
)
