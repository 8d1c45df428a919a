"""What a model takes before any weight is read: parameters, bytes, and what fits in memory.

Everything follows from a `ModelSpec`. Weights are counted as the native core packs them and as
GGUF stores them; caches as the executor lays them out in blocks.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, prod
from types import MappingProxyType
from typing import Literal

from yearling.core.errors import ConfigError
from yearling.models.cache_layout import CacheGroup, cache_layout
from yearling.models.checkpoint.formats import BLOCK_FORMATS
from yearling.models.spec import (
    MLP,
    Experts,
    Gated,
    LayerSpec,
    Mixer,
    ModelSpec,
    Pooling,
    StateSpace,
)
from yearling.models.weights import Role, Weight, weights_of

__all__ = [
    "CACHE_TYPES",
    "Fit",
    "MemoryPlan",
    "ParameterCounts",
    "cache_bytes",
    "count_parameters",
    "plan_memory",
]

WeightType = Literal["float32", "float16", "int8", "int4"]
CacheType = Literal["float32", "16-bit"]

CACHE_TYPES: Mapping[CacheType, int] = MappingProxyType({"float32": 4, "16-bit": 2})
"""Bytes of a cached number; those of 16 bits are bfloat16 where the processor multiplies it."""

_BLOCK_TOKENS = 16
_STEP_TOKENS, _LOGIT_ROWS = 192, 128  # what a step holds unless the user asks otherwise

# Tiles of 8 outputs: bytes per input where numbers are stored plainly, per group of 32 inputs
# where they share a scale.
_TILE, _GROUP = 8, 32
_PLAIN_TILE: Mapping[WeightType, int] = {"float32": 32, "float16": 16}
_GROUP_TILE: Mapping[WeightType, int] = {"int8": 272, "int4": 160}
_TILE_UNITS: Mapping[WeightType, int] = {"int8": 0, "int4": 32}
_WEIGHT_TYPES: tuple[WeightType, ...] = ("float32", "float16", "int8", "int4")

# Superblocks need rows of whole 256; llama.cpp's quantiser stores other rows in these instead.
_GGUF_FORMATS = ("F32", "F16", "Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q4_1", "Q4_0")
_SHORT_ROWS = {"Q6_K": "Q8_0", "Q5_K": "Q5_1", "Q4_K": "Q5_0"}

_EXACT_ROLES: frozenset[Role] = frozenset(
    {
        "position_embedding",
        "block_position_embedding",
        "token_type_embedding",
        "query_positions",
        "convolution",
        "state_matrix",
        "router",
    }
)
"""Tables that are added, and choices that rounding would change: float32 in every precision."""

_EMBEDDINGS: frozenset[Role] = frozenset(
    {
        "embedding",
        "embedding_projection",
        "position_embedding",
        "block_position_embedding",
        "token_type_embedding",
        "embedding_norm",
    }
)


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Exact numbers of parameters; a tied head counts once, as embedding.

    Attributes:
        total: All of them.
        active: Those that one token passes through; fewer than `total` with experts.
        embedding: Embedding tables, their projection and norm.
        head: Projection to the vocabulary, where it has weights of its own.
        layers: Of each layer.
    """

    total: int
    active: int
    embedding: int
    head: int
    layers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Fit:
    """How one precision of the weights fits in memory.

    Attributes:
        weights: Number format of the weights.
        cache_type: Number format of the cache that goes with it.
        weight_bytes: All weights, packed.
        cache_bytes: Caches of the asked sequences at the asked length.
        needed_bytes: Weights, caches and the buffers of a step.
        tokens: Longest sequence that fits, so many side by side as asked; 0 when none does.
    """

    weights: WeightType
    cache_type: CacheType
    weight_bytes: int
    cache_bytes: int
    needed_bytes: int
    tokens: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a model takes, and what of it fits.

    Attributes:
        parameters: Exact counts.
        gguf_bytes: Tensor data of a GGUF file with every matrix in one format, by format.
        cache: Cache groups; none for an encoder.
        context: Tokens per sequence that were asked for.
        sequences: Sequences side by side.
        buffer_bytes: Buffers of a step of 192 tokens, roughly.
        available_bytes: Free memory.
        fits: Per precision, the most exact first.
    """

    parameters: ParameterCounts
    gguf_bytes: Mapping[str, int]
    cache: tuple[CacheGroup, ...]
    context: int
    sequences: int
    buffer_bytes: int
    available_bytes: int
    fits: tuple[Fit, ...]


def count_parameters(spec: ModelSpec) -> ParameterCounts:
    """Count a model's parameters, from shapes alone."""
    layers = [0] * len(spec.layers)
    embedding = head = rest = idle = 0
    for weight in weights_of(spec):
        count = prod(weight.shape)
        if weight.layer is not None:
            layers[weight.layer] += count
            idle += count if _is_idle(weight, spec.layers[weight.layer].mlp) else 0
        elif weight.role in _EMBEDDINGS:
            embedding += count
        elif weight.role == "head":
            head += count
        else:
            rest += count
    total = sum(layers) + embedding + head + rest
    return ParameterCounts(total, total - idle, embedding, head, tuple(layers))


def _cache_groups(spec: ModelSpec) -> tuple[CacheGroup, ...]:
    """Cache groups; an encoder keeps nothing between steps."""
    return () if isinstance(spec.head, Pooling) else cache_layout(spec).groups


def cache_bytes(group: CacheGroup, tokens: int, cache_type: CacheType) -> int:
    """Bytes of one sequence's share of a group, in whole blocks of 16; states are float32.

    >>> cache_bytes(CacheGroup("full", token_floats=30 * 2 * 3 * 64), 17, "16-bit")
    737280
    """
    blocks = ceil(tokens / _BLOCK_TOKENS)
    if group.window is not None:  # a window that begins inside a block needs one more
        blocks = min(blocks, ceil((group.window - 1) / _BLOCK_TOKENS) + 1)
    taken = blocks * _BLOCK_TOKENS * group.token_floats * CACHE_TYPES[cache_type]
    return taken + 4 * group.slot_floats


def plan_memory(
    spec: ModelSpec, available_bytes: int, *, context: int | None = None, sequences: int = 1
) -> MemoryPlan:
    """Say what a model takes and what fits.

    Args:
        available_bytes: Free memory.
        context: Tokens per sequence; None takes the model's own.
        sequences: Sequences side by side.
    Raises:
        ConfigError: `context` is more than the model was made for.
    """
    context = spec.context if context is None else context
    if context > spec.context:
        raise ConfigError(
            f"context={context} is more than the {spec.context} tokens that the model was made "
            "for: leave it out or take less."
        )
    groups, buffers = _cache_groups(spec), _buffer_bytes(spec)
    fits = []
    for weight_type in _WEIGHT_TYPES:
        weight_bytes = sum(_packed_bytes(weight, weight_type) for weight in weights_of(spec))
        cache_type: CacheType = "16-bit" if weight_type in _GROUP_TILE else "float32"

        def bytes_of_caches(tokens: int, cache_type: CacheType = cache_type) -> int:
            return sequences * sum(cache_bytes(group, tokens, cache_type) for group in groups)

        room = available_bytes - weight_bytes - buffers
        needed = weight_bytes + buffers + bytes_of_caches(context)
        tokens = max(0, bisect_right(range(context + 1), room, key=bytes_of_caches) - 1)
        fits.append(
            Fit(weight_type, cache_type, weight_bytes, bytes_of_caches(context), needed, tokens)
        )
    return MemoryPlan(
        parameters=count_parameters(spec),
        gguf_bytes={name: _gguf_bytes(spec, name) for name in _GGUF_FORMATS},
        cache=groups,
        context=context,
        sequences=sequences,
        buffer_bytes=buffers,
        available_bytes=available_bytes,
        fits=tuple(fits),
    )


def _is_idle(weight: Weight, mlp: MLP | None) -> bool:
    """Whether the weight belongs to an expert beyond those a token visits."""
    return weight.expert is not None and isinstance(mlp, Experts) and weight.expert >= mlp.active


def _is_matrix(weight: Weight) -> bool:
    return len(weight.shape) == 2 and weight.role not in _EXACT_ROLES


def _packed_bytes(weight: Weight, weight_type: WeightType) -> int:
    """Bytes in the native core, whose tiles hold 8 outputs whole."""
    if not _is_matrix(weight):
        return prod(weight.shape) * 4
    outputs, inputs = weight.shape
    if weight_type in _GROUP_TILE:
        tile = ceil(inputs / _GROUP) * _GROUP_TILE[weight_type] + _TILE_UNITS[weight_type]
        return ceil(outputs / _TILE) * tile
    return ceil(outputs / _TILE) * inputs * _PLAIN_TILE[weight_type]


def _gguf_bytes(spec: ModelSpec, name: str) -> int:
    return sum(
        BLOCK_FORMATS[_gguf_format(weight, name)].size(weight.shape) for weight in weights_of(spec)
    )


def _gguf_format(weight: Weight, name: str) -> str:
    """The format asked for, or what stands in for it where rows are not whole blocks."""
    if not _is_matrix(weight):
        return "F32"
    for candidate in (name, _SHORT_ROWS.get(name, "F16"), "F16"):
        if weight.shape[-1] % BLOCK_FORMATS[candidate].values == 0:
            return candidate
    raise AssertionError("every row is whole blocks of F16")


def _buffer_bytes(spec: ModelSpec) -> int:
    columns = max(_layer_columns(spec.width, layer) for layer in spec.layers)
    rows = 0 if isinstance(spec.head, Pooling) else _LOGIT_ROWS * (spec.vocabulary + 2 * spec.width)
    return 4 * (_STEP_TOKENS * (2 * spec.width + columns) + rows)


def _layer_columns(width: int, layer: LayerSpec) -> int:
    return _mixer_columns(layer.mixer) + _mlp_columns(width, layer.mlp)


def _mixer_columns(mixer: Mixer) -> int:
    if isinstance(mixer, StateSpace):
        return 5 * mixer.inner + mixer.rank + 2 * mixer.state
    return (2 * mixer.heads + 2 * mixer.kv_heads) * mixer.head_dim


def _mlp_columns(width: int, mlp: MLP | None) -> int:
    if mlp is None:
        return 0
    if isinstance(mlp, Experts):
        shared = _mlp_columns(width, mlp.shared)
        return mlp.count + width + shared + _mlp_columns(width, mlp.expert)
    return mlp.hidden * (3 if isinstance(mlp, Gated) else 1)
