"""Which weights a model spec calls for, in shapes; a family adds only their names.

Legend: V vocabulary, E width, H heads, D head size.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from yearling.core.errors import ModelFormatError
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
)

__all__ = ["Role", "Weight", "WeightName", "weights_of"]

Role = Literal[
    "embedding",
    "position_embedding",
    "embedding_norm",
    "mixer_norm",
    "mixer_post_norm",
    "query",
    "key",
    "value",
    "query_norm",
    "key_norm",
    "output",
    "mlp_norm",
    "mlp_post_norm",
    "gate",
    "up",
    "down",
    "final_norm",
    "head",
]


@dataclass(frozen=True, slots=True)
class WeightName:
    """What a family calls one weight, without `.weight` or `.bias`; `{layer}` is the number.

    Attributes:
        hugging_face: For example `model.layers.{layer}.self_attn.q_proj`.
        gguf: For example `blk.{layer}.attn_q`.
    """

    hugging_face: str
    gguf: str


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor that a spec calls for.

    Attributes:
        role: What it is for.
        layer: Layer number from 0, or None outside the layers.
        part: Matrix or gain, or the bias beside it.
        shape: Rows first.
    """

    role: Role
    layer: int | None
    part: Literal["weight", "bias"]
    shape: tuple[int, ...]

    def names(self, table: Mapping[Role, WeightName]) -> tuple[str, str]:
        """Give the tensor's Hugging Face name and its GGUF name.

        >>> table = {"query": WeightName("layers.{layer}.q_proj", "blk.{layer}.attn_q")}
        >>> Weight("query", 3, "bias", (64,)).names(table)
        ('layers.3.q_proj.bias', 'blk.3.attn_q.bias')
        """
        name = table[self.role]
        return (
            f"{name.hugging_face.format(layer=self.layer)}.{self.part}",
            f"{name.gguf.format(layer=self.layer)}.{self.part}",
        )


_Module = tuple[Role, tuple[int, ...], bool, bool]  # role, shape, has weight, has bias


def weights_of(spec: ModelSpec) -> Iterator[Weight]:
    """List every weight a spec calls for; a tied head is not one.

    Raises:
        ModelFormatError: a part of the spec whose weights are not listed here yet.
    """
    yield from _parts(None, _outer_modules(spec))
    for number, layer in enumerate(spec.layers):
        yield from _parts(number, _layer_modules(spec, layer))


def _parts(layer: int | None, modules: Iterator[_Module]) -> Iterator[Weight]:
    for role, shape, has_weight, has_bias in modules:
        if has_weight:
            yield Weight(role, layer, "weight", shape)
        if has_bias:
            yield Weight(role, layer, "bias", shape[:1])


def _outer_modules(spec: ModelSpec) -> Iterator[_Module]:
    embedding = spec.embedding
    if embedding.projection or embedding.token_types or embedding.block_positions:
        raise _not_listed(spec, "the embedding's projection, token types or block positions")
    yield "embedding", (spec.vocabulary, spec.width), True, False
    if embedding.positions is not None:
        rows = embedding.positions + embedding.position_offset
        yield "position_embedding", (rows, spec.width), True, False
    yield from _norm("embedding_norm", embedding.norm, spec.width)
    yield from _norm("final_norm", spec.final_norm, spec.width)
    if isinstance(spec.head, Head):
        yield "head", (spec.vocabulary, spec.width), not spec.head.is_tied, spec.head.has_bias


def _layer_modules(spec: ModelSpec, layer: LayerSpec) -> Iterator[_Module]:
    yield from _residual_modules(spec, layer)
    if not isinstance(layer.mixer, Attention) or layer.mixer.query_source != "hidden":
        raise _not_listed(spec, "state spaces and query layers")
    yield from _attention_modules(spec.width, layer.mixer)
    match layer.mlp:
        case Plain(hidden, _, has_bias):
            yield "up", (hidden, spec.width), True, has_bias
            yield "down", (spec.width, hidden), True, has_bias
        case Gated(hidden, _, has_bias, has_down_bias):
            yield "gate", (hidden, spec.width), True, has_bias
            yield "up", (hidden, spec.width), True, has_bias
            has_down_bias = has_bias if has_down_bias is None else has_down_bias
            yield "down", (spec.width, hidden), True, has_down_bias
        case Experts():
            raise _not_listed(spec, "experts")


def _attention_modules(width: int, attention: Attention) -> Iterator[_Module]:
    queries = attention.heads * attention.head_dim
    keys = attention.kv_heads * attention.head_dim
    has_bias = attention.has_qkv_bias
    yield "query", (queries, width), True, has_bias
    yield "key", (keys, width), True, has_bias
    yield "value", (keys, width), True, has_bias
    if attention.norm_over == "head":
        queries_normed = keys_normed = attention.head_dim
    else:
        queries_normed, keys_normed = queries, keys
    yield from _norm("query_norm", attention.query_norm, queries_normed)
    yield from _norm("key_norm", attention.key_norm, keys_normed)
    yield "output", (width, queries), True, attention.has_output_bias


def _residual_modules(spec: ModelSpec, layer: LayerSpec) -> Iterator[_Module]:
    match layer.residual:
        case Serial(mixer_norm, mlp_norm) | Parallel(mixer_norm, mlp_norm):
            norms: tuple[tuple[Role, Norm | None], ...] = (
                ("mixer_norm", mixer_norm),
                ("mlp_norm", mlp_norm),
            )
        case PostNorm(mixer_norm, mlp_norm):
            norms = (("mixer_norm", mixer_norm), ("mlp_norm", mlp_norm))
        case Sandwich(mixer_norm, mixer_post_norm, mlp_norm, mlp_post_norm):
            norms = (
                ("mixer_norm", mixer_norm),
                ("mixer_post_norm", mixer_post_norm),
                ("mlp_norm", mlp_norm),
                ("mlp_post_norm", mlp_post_norm),
            )
    for role, norm in norms:
        yield from _norm(role, norm, spec.width)


def _norm(role: Role, norm: Norm | None, width: int) -> Iterator[_Module]:
    if norm is not None:
        yield role, (width,), norm.has_weight, norm.has_bias


def _not_listed(spec: ModelSpec, what: str) -> ModelFormatError:
    return ModelFormatError(f"family {spec.family}: weights of {what} are not read yet.")
