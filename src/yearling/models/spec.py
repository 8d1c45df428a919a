"""One description of a decoder language model, which every family fills and interpreters read.

A `ModelSpec` is an embedding, a tuple of layers and a head. A layer is a mixer (attention or
a state space), an MLP, and the way both join the residual stream. Layers may differ, so local
and global attention, pruned heads and hybrids need no new type. Everything is plain, frozen
data: no arrays, no torch.

Legend: V vocabulary, E width of the residual stream, H heads, D head size.
"""

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "MLP",
    "Activation",
    "Alibi",
    "Attention",
    "Embedding",
    "Experts",
    "Gated",
    "Head",
    "LayerSpec",
    "LogScale",
    "Mixer",
    "ModelSpec",
    "NoPositions",
    "Norm",
    "Parallel",
    "Plain",
    "Pooling",
    "Positions",
    "PostNorm",
    "Residual",
    "Rotary",
    "RotaryScaling",
    "Sandwich",
    "Serial",
    "StateSpace",
]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu_squared", "quick_gelu"]


@dataclass(frozen=True, slots=True)
class Norm:
    """A normalisation over the last axis.

    Attributes:
        kind: Root mean square (no mean, no bias) or layer norm.
        epsilon: Added to the mean square or the variance.
        has_weight: False for OLMo-style norms without parameters.
        has_bias: Only with `kind="layer"`.
        weight_offset: Added to the stored weight; 1.0 in Gemma.
    """

    kind: Literal["rms", "layer"] = "rms"
    epsilon: float = 1e-5
    has_weight: bool = True
    has_bias: bool = False
    weight_offset: float = 0.0


@dataclass(frozen=True, slots=True)
class RotaryScaling:
    """How rotary frequencies are stretched beyond the trained context.

    Attributes:
        kind: `linear` position interpolation; `ntk` fixed base change; `dynamic_ntk` base
            change that grows with the sequence; `stepped_ntk` the same in powers of two of
            the trained context (Qwen 1, TeleChat); `yarn`; `llama3` piecewise; `power` and
            `truncated` bases of Giraffe.
        factor: Stretch, > 0; `truncated` divides the upper cut-off by it for what lies between.
        original_context: Trained context in tokens.
        low_frequency: `llama3` low factor; `yarn` slow beta; `truncated` lower cut-off, in turns
            over the trained context.
        high_frequency: `llama3` high factor; `yarn` fast beta; `truncated` upper cut-off, in turns
            over the trained context.
        attention_factor: `yarn` scale of cosine and sine; None computes it from the factor.
        has_length_factor: `stepped_ntk` scales cosine and sine by 0.1·ln(length / trained) + 1
            beyond the trained context (TeleChat).
        exponent: `power` exponent.
    """

    kind: Literal[
        "linear", "ntk", "dynamic_ntk", "stepped_ntk", "yarn", "llama3", "power", "truncated"
    ]
    factor: float = 1.0
    original_context: int = 0
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    attention_factor: float | None = None
    has_length_factor: bool = False
    exponent: float = 0.0


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary position embedding on the first `dims` of each head.

    Attributes:
        dims: Rotated dimensions per head, even, ≤ D; fewer than D is partial rotary.
        base: Frequency base θ.
        layout: `half` pairs (i, i + dims/2), `interleaved` pairs (2i, 2i+1),
            `two_dimensional` is ChatGLM-6B's: the first half of the dims turns by the position
            in the prompt, where the answer stands still, and the second by the position in the
            answer; each half pairs (i, i + dims/4).
        scaling: Frequency scaling, or None.
    """

    dims: int
    base: float = 10_000.0
    layout: Literal["half", "interleaved", "two_dimensional"] = "half"
    scaling: RotaryScaling | None = None


@dataclass(frozen=True, slots=True)
class Alibi:
    """Linear biases on attention scores (Press et al. 2022, arXiv:2108.12409).

    Attributes:
        max_bias: Exponent of the last head's slope, 2 to the power of -max_bias.
        is_scaled: Biases are multiplied by the factor on scores as well (Falcon-RW).
    """

    max_bias: float = 8.0
    is_scaled: bool = False


@dataclass(frozen=True, slots=True)
class NoPositions:
    """Attention without positions: learned ones in the embedding, or none at all."""


Positions = Rotary | Alibi | NoPositions


@dataclass(frozen=True, slots=True)
class LogScale:
    """Queries past the trained length are multiplied by log(position) / log(length) (Qwen 1)."""

    trained_length: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Grouped-query attention: H query heads share `kv_heads` key and value heads.

    Attributes:
        heads: Query heads H.
        kv_heads: Key/value heads; 1 is multi-query, H is multi-head.
        head_dim: Size D of a head, of queries, keys and values.
        positions: Rotary, ALiBi, or none here.
        window: Tokens a query sees, itself included; None sees all.
        mask: `causal`; `prefix` sees the whole prompt; `bidirectional` sees everything.
        has_qkv_bias: Bias on query, key and value projections.
        has_output_bias: Bias on the output projection.
        query_norm: Norm of queries per head, before positions, or None.
        key_norm: Norm of keys per head, before positions, or None.
        norm_over: Whether QK-norms run over one head or over all heads together.
        scale: Factor on scores; None is 1/sqrt(D).
        soft_cap: Scores become cap·tanh(score/cap), or None.
        log_scale: Length-dependent query scale, or None.
        clip_qkv: Clamp of query, key and value entries (MPT), or None.
        query_positions: Rows of a learned table whose row for the token's position the queries
            are projected from (PanGu-α's top query layer); None projects the hidden state.
    """

    heads: int
    kv_heads: int
    head_dim: int
    positions: Positions = field(default_factory=NoPositions)
    window: int | None = None
    mask: Literal["causal", "prefix", "bidirectional"] = "causal"
    has_qkv_bias: bool = False
    has_output_bias: bool = False
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    norm_over: Literal["head", "all_heads"] = "head"
    scale: float | None = None
    soft_cap: float | None = None
    log_scale: LogScale | None = None
    clip_qkv: float | None = None
    query_positions: int | None = None

    def __post_init__(self) -> None:
        if min(self.heads, self.kv_heads, self.head_dim) < 1 or self.heads % self.kv_heads:
            raise ValueError(
                f"attention with heads={self.heads}, kv_heads={self.kv_heads}, "
                f"head_dim={self.head_dim}: all must be positive and kv_heads must divide heads."
            )
        if isinstance(self.positions, Rotary) and (
            self.positions.dims % 2 or not 0 < self.positions.dims <= self.head_dim
        ):
            raise ValueError(
                f"rotary dims={self.positions.dims} must be even and at most "
                f"head_dim={self.head_dim}."
            )


@dataclass(frozen=True, slots=True)
class StateSpace:
    """Mamba's mixer: causal convolution, then a selective scan (arXiv:2312.00752).

    Attributes:
        inner: Width of the scan, usually 2E.
        state: State size N per channel.
        convolution: Taps of the causal convolution.
        rank: Rank of the time-step projection.
        has_convolution_bias: Bias of the convolution.
        has_projection_bias: Bias of the input and output projections.
        inner_norm: Norm on time step, B and C (FalconMamba), or None.
    """

    inner: int
    state: int
    convolution: int
    rank: int
    has_convolution_bias: bool = True
    has_projection_bias: bool = False
    inner_norm: Norm | None = None


Mixer = Attention | StateSpace


@dataclass(frozen=True, slots=True)
class Plain:
    """Two projections with an activation between."""

    hidden: int
    activation: Activation = "gelu"
    has_bias: bool = True


@dataclass(frozen=True, slots=True)
class Gated:
    """activation(gate(x)) · up(x), then down.

    Attributes:
        has_bias: Bias of the gate and up projections.
        has_down_bias: Bias of the down projection; None follows `has_bias`. TeleChat has it
            alone.
    """

    hidden: int
    activation: Activation = "silu"
    has_bias: bool = False
    has_down_bias: bool | None = None


@dataclass(frozen=True, slots=True)
class Experts:
    """Mixture of experts: each token visits `active` of `count` experts.

    Attributes:
        count: Routed experts.
        active: Experts per token.
        expert: The MLP each expert is.
        shared: An MLP every token visits, or None.
        router: `softmax_topk` normalises before the choice, `topk_softmax` over the chosen
            (Mixtral), `random` is PanGu-Σ's fixed random routing.
        is_renormalised: Whether the chosen weights are made to sum to one.
    """

    count: int
    active: int
    expert: Plain | Gated
    shared: Plain | Gated | None = None
    router: Literal["softmax_topk", "topk_softmax", "random"] = "topk_softmax"
    is_renormalised: bool = True


MLP = Plain | Gated | Experts


@dataclass(frozen=True, slots=True)
class Serial:
    """x += mixer(norm(x)); x += mlp(norm(x)): pre-norm, the usual layout."""

    mixer_norm: Norm
    mlp_norm: Norm | None = None
    multiplier: float = 1.0


@dataclass(frozen=True, slots=True)
class Parallel:
    """x += mixer(norm(x)) + mlp(norm(x)); `mlp_norm` None shares the mixer's norm."""

    mixer_norm: Norm
    mlp_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Sandwich:
    """x += norm(mixer(norm(x))); the same for the MLP (Gemma 2 and 3)."""

    mixer_norm: Norm
    mixer_post_norm: Norm
    mlp_norm: Norm
    mlp_post_norm: Norm


@dataclass(frozen=True, slots=True)
class PostNorm:
    """x = norm(alpha·x + mixer(x)): BERT with alpha 1, DeepNorm above.

    With `is_inner` the branch and the scaled residual both start from the normed input, as
    in ChatGLM-6B: h = norm(x); x = alpha·h + mixer(h).
    """

    mixer_norm: Norm
    mlp_norm: Norm
    alpha: float = 1.0
    is_inner: bool = False


Residual = Serial | Parallel | Sandwich | PostNorm


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer: a mixer, an MLP (None in Mamba), and how both join the residual stream.

    Attributes:
        mixer: Attention or a state space.
        mlp: What follows it, or None.
        residual: How both join the residual stream.
        stream_norm: Norm of the residual stream itself before the layer (PanGu-α's query layer),
            or None.
    """

    mixer: Mixer
    mlp: MLP | None
    residual: Residual
    stream_norm: Norm | None = None


@dataclass(frozen=True, slots=True)
class Embedding:
    """Token embedding and what is added to it.

    Attributes:
        scale: Factor on the token embedding; sqrt(E) in Gemma.
        positions: Rows of a learned position table, or None.
        position_offset: First row used; 2 in OPT.
        block_positions: Rows of a second learned table, for positions inside a span that is
            being filled in (GLM-10B), or None.
        token_types: Rows of a token-type table (BERT), or None.
        norm: Norm after the sum (BLOOM, BERT), or None.
        projection: Width of the table when it differs from E, or None.
    """

    scale: float = 1.0
    positions: int | None = None
    position_offset: int = 0
    block_positions: int | None = None
    token_types: int | None = None
    norm: Norm | None = None
    projection: int | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """Projection to the vocabulary.

    Attributes:
        is_tied: Uses the embedding's weights.
        has_bias: Bias of V entries.
        is_normalised: Rows are L2-normalised first (Baichuan 2's NormHead).
        scale: Factor on the logits.
        soft_cap: Logits become cap·tanh(logit/cap), or None.
    """

    is_tied: bool = False
    has_bias: bool = False
    is_normalised: bool = False
    scale: float = 1.0
    soft_cap: float | None = None


@dataclass(frozen=True, slots=True)
class Pooling:
    """Instead of logits: one vector per sequence (encoders)."""

    kind: Literal["mean", "first", "last"] = "mean"
    is_normalised: bool = True


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A decoder language model (or an encoder: bidirectional attention and a pooling).

    Attributes:
        family: Registered name of the family that made this, for example `llama`.
        vocabulary: Rows V of the embedding.
        width: Width E of the residual stream.
        context: Longest sequence in tokens that the model was made for.
        embedding: Token embedding.
        layers: From first to last; they may differ.
        final_norm: Norm before the head, or None.
        head: Projection to the vocabulary, or a pooling.
        prompt_tail: Trailing tokens of a prompt that belong to its answer already: 1 in ChatGLM,
            whose prompts end with a start-of-answer token. What comes before is the prefix that
            `mask="prefix"` shows to all, and where spans' two positions part.
    """

    family: str
    vocabulary: int
    width: int
    context: int
    embedding: Embedding
    layers: tuple[LayerSpec, ...]
    final_norm: Norm | None
    head: Head | Pooling
    prompt_tail: int = 0

    def __post_init__(self) -> None:
        if min(self.vocabulary, self.width, self.context) < 1 or not self.layers:
            raise ValueError(
                f"model spec with vocabulary={self.vocabulary}, width={self.width}, "
                f"context={self.context}, {len(self.layers)} layers: all must be positive."
            )
