"""Which weights a model spec calls for, in shapes; a family adds only their names.

A `Weight` is one matrix or vector by its part in the model, in canonical form: rows are outputs,
queries, keys and values are apart, experts are apart. How a file stores it (fused, stacked,
transposed) is said by the family's names and worked out in `models.places`.

Legend: V vocabulary, E width, H heads, D head size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from yearling.models.spec import (
    Attention,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    PostNorm,
    Sandwich,
    Serial,
    StateSpace,
)

__all__ = ["Role", "Weight", "WeightName", "weights_of"]

Role = Literal[
    "embedding",
    "embedding_projection",
    "position_embedding",
    "block_position_embedding",
    "token_type_embedding",
    "embedding_norm",
    "stream_norm",
    "mixer_norm",
    "mixer_post_norm",
    "query_positions",
    "query",
    "key",
    "value",
    "query_norm",
    "key_norm",
    "output",
    "state_input",
    "convolution",
    "state_parameters",
    "time_step_norm",
    "input_matrix_norm",
    "output_matrix_norm",
    "time_step",
    "state_matrix",
    "skip",
    "state_output",
    "mlp_norm",
    "mlp_post_norm",
    "router",
    "gate",
    "up",
    "down",
    "shared_gate",
    "shared_up",
    "shared_down",
    "final_norm",
    "head",
]


@dataclass(frozen=True, slots=True)
class WeightName:
    """What a family calls one weight, without `.weight` or `.bias`.

    `{layer}` is the layer's number and `{expert}` the expert's. Roles of one layer that have the
    same name are stored as one matrix, one below the other in the order of the family's table.
    A name without `{expert}` for weights of experts means that they are stacked.

    Attributes:
        hugging_face: For example `model.layers.{layer}.self_attn.q_proj`.
        gguf: For example `blk.{layer}.attn_q`; empty where llama.cpp has no such weight.
        rows: How fused rows lie in a Hugging Face file: `blocks` role after role; `groups` for
            each key head its queries, its key, its value; `quarters` in four parts of
            queries, values, keys (CodeGen). GGUF always has blocks.
        is_transposed: Hugging Face stores (inputs, outputs), as GPT-2 does.
        has_suffix: Whether `.weight` and `.bias` follow the name.
        gguf_value: How GGUF stores the numbers: `same`; `plus_one` (Gemma's norms);
            `minus_exponential` (Mamba's state matrix).
    """

    hugging_face: str
    gguf: str = ""
    rows: Literal["blocks", "groups", "quarters"] = "blocks"
    is_transposed: bool = False
    has_suffix: bool = True
    gguf_value: Literal["same", "plus_one", "minus_exponential"] = "same"


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor that a spec calls for.

    Attributes:
        role: What it is for.
        layer: Layer number from 0, or None outside the layers.
        part: Matrix or gain, or the bias beside it.
        shape: Rows first: (outputs, inputs), or (width,).
        expert: Number of the expert it belongs to, or None.
    """

    role: Role
    layer: int | None
    part: Literal["weight", "bias"]
    shape: tuple[int, ...]
    expert: int | None = None


_Module = tuple[Role, tuple[int, ...], bool, bool, int | None]
# role, shape, has weight, has bias, expert


def weights_of(spec: ModelSpec) -> Iterator[Weight]:
    """List every weight a spec calls for; a tied head is not one."""
    yield from _parts(None, _outer_modules(spec))
    for number, layer in enumerate(spec.layers):
        yield from _parts(number, _layer_modules(spec.width, layer))


def _parts(layer: int | None, modules: Iterator[_Module]) -> Iterator[Weight]:
    for role, shape, has_weight, has_bias, expert in modules:
        if has_weight:
            yield Weight(role, layer, "weight", shape, expert)
        if has_bias:
            yield Weight(role, layer, "bias", shape[:1], expert)


def _outer_modules(spec: ModelSpec) -> Iterator[_Module]:
    embedding = spec.embedding
    table_width = embedding.projection or spec.width
    yield "embedding", (spec.vocabulary, table_width), True, False, None
    if embedding.projection is not None:
        yield "embedding_projection", (spec.width, table_width), True, False, None
    if embedding.positions is not None:
        rows = embedding.positions + embedding.position_offset
        yield "position_embedding", (rows, spec.width), True, False, None
    if embedding.block_positions is not None:
        rows = embedding.block_positions
        yield "block_position_embedding", (rows, spec.width), True, False, None
    if embedding.token_types is not None:
        yield "token_type_embedding", (embedding.token_types, spec.width), True, False, None
    yield from _norm("embedding_norm", embedding.norm, spec.width)
    yield from _norm("final_norm", spec.final_norm, spec.width)
    if isinstance(spec.head, Head):
        shape = (spec.vocabulary, table_width)
        yield "head", shape, not spec.head.is_tied, spec.head.has_bias, None


def _layer_modules(width: int, layer: LayerSpec) -> Iterator[_Module]:
    yield from _norm("stream_norm", layer.stream_norm, width)
    for role, norm in _norms_of(layer):
        yield from _norm(role, norm, width)
    if isinstance(layer.mixer, StateSpace):
        yield from _state_space_modules(width, layer.mixer)
    else:
        yield from _attention_modules(width, layer.mixer)
    if isinstance(layer.mlp, Experts):
        yield from _expert_modules(width, layer.mlp)
    elif layer.mlp is not None:
        yield from _mlp_modules(width, layer.mlp, ("gate", "up", "down"), None)


def _mlp_modules(
    width: int, mlp: Plain | Gated, roles: tuple[Role, Role, Role], expert: int | None
) -> Iterator[_Module]:
    gate, up, down = roles
    has_down_bias = mlp.has_bias
    if isinstance(mlp, Gated):
        has_down_bias = mlp.has_bias if mlp.has_down_bias is None else mlp.has_down_bias
        yield gate, (mlp.hidden, width), True, mlp.has_bias, expert
    yield up, (mlp.hidden, width), True, mlp.has_bias, expert
    yield down, (width, mlp.hidden), True, has_down_bias, expert


def _expert_modules(width: int, experts: Experts) -> Iterator[_Module]:
    if experts.router != "random":
        yield "router", (experts.count, width), True, False, None
    for expert in range(experts.count):
        yield from _mlp_modules(width, experts.expert, ("gate", "up", "down"), expert)
    if experts.shared is not None:
        roles: tuple[Role, Role, Role] = ("shared_gate", "shared_up", "shared_down")
        yield from _mlp_modules(width, experts.shared, roles, None)


def _attention_modules(width: int, attention: Attention) -> Iterator[_Module]:
    queries = attention.heads * attention.head_dim
    keys = attention.kv_heads * attention.head_dim
    has_bias = attention.has_qkv_bias
    if attention.query_positions is not None:
        yield "query_positions", (attention.query_positions, width), True, False, None
    yield "query", (queries, width), True, has_bias, None
    yield "key", (keys, width), True, has_bias, None
    yield "value", (keys, width), True, has_bias, None
    if attention.norm_over == "head":
        queries_normed = keys_normed = attention.head_dim
    else:
        queries_normed, keys_normed = queries, keys
    yield from _norm("query_norm", attention.query_norm, queries_normed)
    yield from _norm("key_norm", attention.key_norm, keys_normed)
    yield "output", (width, queries), True, attention.has_output_bias, None


def _state_space_modules(width: int, mixer: StateSpace) -> Iterator[_Module]:
    inner, state, has_bias = mixer.inner, mixer.state, mixer.has_projection_bias
    yield "state_input", (2 * inner, width), True, has_bias, None
    yield "convolution", (inner, mixer.convolution), True, mixer.has_convolution_bias, None
    yield "state_parameters", (mixer.rank + 2 * state, inner), True, False, None
    if mixer.inner_norm is not None:
        yield from _norm("time_step_norm", mixer.inner_norm, mixer.rank)
        yield from _norm("input_matrix_norm", mixer.inner_norm, state)
        yield from _norm("output_matrix_norm", mixer.inner_norm, state)
    yield "time_step", (inner, mixer.rank), True, True, None
    yield "state_matrix", (inner, state), True, False, None
    yield "skip", (inner,), True, False, None
    yield "state_output", (width, inner), True, has_bias, None


def _norms_of(layer: LayerSpec) -> tuple[tuple[Role, Norm | None], ...]:
    residual = layer.residual
    match residual:
        case Serial() | Parallel() | PostNorm():
            return ("mixer_norm", residual.mixer_norm), ("mlp_norm", residual.mlp_norm)
        case Sandwich():
            return (
                ("mixer_norm", residual.mixer_norm),
                ("mixer_post_norm", residual.mixer_post_norm),
                ("mlp_norm", residual.mlp_norm),
                ("mlp_post_norm", residual.mlp_post_norm),
            )


def _norm(role: Role, norm: Norm | None, width: int) -> Iterator[_Module]:
    if norm is not None:
        yield role, (width,), norm.has_weight, norm.has_bias, None
