"""Attention of packed sequences: each sees its own keys, and no row is padding.

Legend: T tokens of a step, K keys a sequence sees, H heads, G key heads, D head size, E width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from yearling.models.alibi import alibi_slopes
from yearling.models.spec import Alibi, Attention, LogScale, Norm, Rotary
from yearling.models.torch_decoder.cache import DecoderCache, SeenKeys
from yearling.models.torch_decoder.leaves import normalise
from yearling.models.torch_decoder.rotary import Angles, rotate
from yearling.models.torch_decoder.segments import Positions, Segment, Segments
from yearling.models.torch_decoder.together import (
    SideBySide,
    attend_together,
    can_attend_together,
)
from yearling.models.torch_decoder.tree import Wiring
from yearling.models.weights import Role

__all__ = ["Attend", "Step", "attend", "run_attention"]

Attend = Callable[[Attention, Tensor, SeenKeys, Segment], Tensor]
"""Computes one sequence's attention, as `attend` does; training may put another in its place."""


@dataclass(frozen=True)
class Step:
    """What all layers of one forward pass share.

    Attributes:
        segments: How rows divide into sequences.
        positions: Of every row.
        angles: Cosine and sine of every row, by rotary settings.
        query_sources: Rows (T, E) that queries are projected from in place of the hidden state,
            by the layer's number.
        cache: Keys, values and states of earlier tokens; None when nothing comes before.
        attend: Computes the attention of one sequence.
        laid: How sequences are divided among calls where they may share one.
    """

    segments: Segments
    positions: Positions
    angles: Mapping[Rotary, Angles] = field(default_factory=dict)
    query_sources: Mapping[int, Tensor] = field(default_factory=dict)
    cache: DecoderCache | None = None
    attend: "Attend" = field(default_factory=lambda: attend)
    laid: Sequence[SideBySide] = ()


def run_attention(
    owner: nn.Module,
    wiring: Wiring,
    attention: Attention,
    hidden: Float[Tensor, "T E"],
    step: Step,
    number: int,
) -> Float[Tensor, "T E"]:
    """Mix the rows of each sequence.

    Args:
        owner: The layer, whose leaves project.
        number: The layer's number, by which the cache knows it.
    """
    source = step.query_sources.get(number)
    queries, keys, values = _heads(owner, wiring, attention, hidden, source)
    if isinstance(attention.positions, Rotary):
        angles = step.angles[attention.positions]
        queries = rotate(queries, angles, attention.positions)
        keys = rotate(keys, angles, attention.positions)
    if attention.log_scale is not None:
        queries = queries * _log_scale(attention.log_scale, step.positions).to(queries.dtype)
    if step.laid and can_attend_together(attention, step.segments):
        attended = attend_together(attention, (queries, keys, values), step.laid)
    else:
        attended = _attend_in_turn(attention, (queries, keys, values), step, number)
    (mixed,) = wiring.project(owner, ("output",), attended.flatten(1))
    return mixed


def _attend_in_turn(
    attention: Attention, heads: tuple[Tensor, Tensor, Tensor], step: Step, number: int
) -> Tensor:
    queries, keys, values = heads
    seen: Sequence[SeenKeys]
    if step.cache is None:
        seen = [SeenKeys(keys[s.rows], values[s.rows], s.start) for s in step.segments]
    else:
        seen = step.cache.extend(number, keys, values)
    return torch.cat(
        [
            step.attend(attention, queries[segment.rows], known, segment)
            for segment, known in zip(step.segments, seen, strict=True)
        ]
    )


def _heads(
    owner: nn.Module, wiring: Wiring, attention: Attention, hidden: Tensor, source: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (T, H, D), keys and values (T, G, D), clamped and normed."""
    if source is None:
        flat = wiring.project(owner, ("query", "key", "value"), hidden)
    else:
        flat = wiring.project(owner, ("query",), source)
        flat += wiring.project(owner, ("key", "value"), hidden)
    if attention.clip_qkv is not None:
        limit = attention.clip_qkv
        flat = [part.clamp(-limit, limit) for part in flat]
    size = attention.head_dim
    queries, keys, values = (part.reshape(len(part), -1, size) for part in flat)
    queries = _head_norm(owner, wiring, attention, "query_norm", queries)
    return queries, _head_norm(owner, wiring, attention, "key_norm", keys), values


def _head_norm(
    owner: nn.Module, wiring: Wiring, attention: Attention, role: Role, heads: Tensor
) -> Tensor:
    norm: Norm | None = attention.query_norm if role == "query_norm" else attention.key_norm
    if norm is None:
        return heads
    rows = heads.flatten(1) if attention.norm_over == "all_heads" else heads
    leaf = wiring.leaf(owner, role) if wiring.has(role) else None
    normed = normalise(rows, norm) if leaf is None else leaf(rows)
    return normed.view_as(heads)


def _log_scale(scale: LogScale, positions: Positions) -> Tensor:
    factor = (positions.token + 1).float().log() / math.log(scale.trained_length)
    return factor.clamp(min=1)[:, None, None]


def attend(
    attention: Attention, queries: Float[Tensor, "T H D"], seen: SeenKeys, segment: Segment
) -> Float[Tensor, "T H D"]:
    """Attention of one sequence's queries over the keys it sees.

    A token sees the keys up to itself, with a prefix or bidirectional mask all of the prefix
    (of the sequence) as well, and of these, with a window, only the last ones.
    """
    slopes = None
    scale = 1 / math.sqrt(attention.head_dim) if attention.scale is None else attention.scale
    if isinstance(attention.positions, Alibi):
        slopes = torch.from_numpy(alibi_slopes(attention.positions, attention.heads))
        slopes = slopes.to(queries.device) * (scale if attention.positions.is_scaled else 1.0)
    visible = _visible(attention, seen, segment, queries.device)
    bias = None if slopes is None else _bias(slopes, seen, segment)
    if bias is None and attention.soft_cap is None:
        return _fast(queries, seen, scale, visible)
    return _exact(queries, seen, scale, visible, bias, attention.soft_cap)


def _visible(
    attention: Attention, seen: SeenKeys, segment: Segment, device: torch.device
) -> "Tensor | bool | None":
    """Which keys each query sees (T, K); True for plain causal, None for all of them."""
    last = segment.end
    shown = {"causal": 0, "prefix": segment.prefix, "bidirectional": last}[attention.mask]
    num_keys = seen.first + len(seen.keys)
    assert num_keys == last, "keys end with the last token's"
    assert shown <= last, "a prefix is computed in one step"
    is_windowed = attention.window is not None and last - seen.first > attention.window
    if not is_windowed and (shown == last or segment.length == 1):
        return None
    if not is_windowed and shown <= 1 and seen.first == segment.start:
        return True
    places = torch.arange(seen.first, last, device=device)
    ends = torch.arange(segment.start + 1, last + 1, device=device).clamp(min=shown)[:, None]
    visible = places < ends
    return visible if attention.window is None else visible & (places >= ends - attention.window)


def _bias(slopes: Tensor, seen: SeenKeys, segment: Segment) -> Tensor:
    """ALiBi (H, T, K)."""
    keys = torch.arange(seen.first, segment.end, device=slopes.device)
    queries = torch.arange(segment.start, segment.end, device=slopes.device)
    return slopes[:, None, None] * (keys - queries[:, None]).float()


def _fast(queries: Tensor, seen: SeenKeys, scale: float, visible: "Tensor | bool | None") -> Tensor:
    mixed = F.scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        seen.keys.transpose(0, 1)[None].to(queries.dtype),
        seen.values.transpose(0, 1)[None].to(queries.dtype),
        attn_mask=visible if isinstance(visible, Tensor) else None,
        is_causal=visible is True,
        scale=scale,
        enable_gqa=queries.shape[1] != seen.keys.shape[1],
    )
    return mixed[0].transpose(0, 1)


def _exact(
    queries: Tensor,
    seen: SeenKeys,
    scale: float,
    visible: "Tensor | bool | None",
    bias: Tensor | None,
    soft_cap: float | None,
) -> Tensor:
    """Written out in float32: biases grow with the distance beyond what half types hold."""
    shared = queries.shape[1] // seen.keys.shape[1]
    keys = seen.keys.float().repeat_interleave(shared, dim=1)
    values = seen.values.float().repeat_interleave(shared, dim=1)
    scores = torch.einsum("thd,khd->htk", queries.float(), keys) * scale
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    if bias is not None:
        scores = scores + bias
    if visible is True:
        size = scores.shape[-1]
        visible = torch.ones(size, size, dtype=torch.bool, device=scores.device).tril()
    if isinstance(visible, Tensor):
        scores = scores.masked_fill(~visible, -math.inf)
    mixed = torch.einsum("htk,khd->thd", scores.softmax(-1), values)
    return mixed.to(queries.dtype)
