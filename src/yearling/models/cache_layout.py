"""Which layers of a model keep the same tokens of a sequence, and how much they keep."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from yearling.models.rotary import rotary_stretch
from yearling.models.spec import Attention, ModelSpec, Rotary, StateSpace

__all__ = ["CacheGroup", "CacheLayout", "cache_layout"]


@dataclass(frozen=True, slots=True)
class CacheGroup:
    """Layers that keep the same tokens of a sequence.

    Attributes:
        kind: `full`, `window`, or `state`, as `serving.executor.CacheShape` says.
        window: Tokens a `window` keeps.
        token_floats: Numbers kept per token over all its layers; 0 for `state`.
        slot_floats: Numbers a state slot keeps over all its layers.
        num_layers: Layers in the group.
    """

    kind: Literal["full", "window", "state"]
    window: int | None = None
    token_floats: int = 0
    slot_floats: int = 0
    num_layers: int = 0


@dataclass(frozen=True, slots=True)
class CacheLayout:
    """How a model's sequences are cached.

    Attributes:
        groups: Those with blocks, by window in order of their first layers; then the states.
        group_of_layer: Number of each layer's group.
        needs_whole_prompt: Tokens of a prompt see each other, so it is computed in one step.
        can_share_prefixes: Whether equal prefixes give equal keys and values, whatever follows.
    """

    groups: tuple[CacheGroup, ...]
    group_of_layer: tuple[int, ...]
    needs_whole_prompt: bool
    can_share_prefixes: bool


def cache_layout(spec: ModelSpec) -> CacheLayout:
    """Work out the cache groups of a model."""
    mixers = [layer.mixer for layer in spec.layers]
    attentions = [mixer for mixer in mixers if isinstance(mixer, Attention)]
    windows = dict.fromkeys(attention.window for attention in attentions)
    numbers = {window: number for number, window in enumerate(windows)}
    groups = [_block_group(window, attentions) for window in numbers]
    states = [mixer for mixer in mixers if isinstance(mixer, StateSpace)]
    if states:
        size = sum(s.inner * (s.convolution - 1 + s.state) for s in states)
        groups.append(CacheGroup("state", slot_floats=size, num_layers=len(states)))
    return CacheLayout(
        groups=tuple(groups),
        group_of_layer=tuple(_group(mixer, numbers) for mixer in mixers),
        needs_whole_prompt=any(a.mask != "causal" for a in attentions),
        can_share_prefixes=_can_share_prefixes(spec, attentions),
    )


def _block_group(window: int | None, attentions: list[Attention]) -> CacheGroup:
    sizes = [2 * a.kv_heads * a.head_dim for a in attentions if a.window == window]
    kind: Literal["full", "window"] = "full" if window is None else "window"
    return CacheGroup(kind, window, token_floats=sum(sizes), num_layers=len(sizes))


def _group(mixer: Attention | StateSpace, numbers: Mapping[int | None, int]) -> int:
    return numbers[mixer.window] if isinstance(mixer, Attention) else len(numbers)


def _can_share_prefixes(spec: ModelSpec, attentions: list[Attention]) -> bool:
    """Only where a token's keys depend on nothing but the tokens before it."""
    rotaries = [a.positions for a in attentions if isinstance(a.positions, Rotary)]
    return (
        len(attentions) == len(spec.layers)
        and all(a.mask == "causal" for a in attentions)
        and not any(rotary_stretch(r) or r.layout == "two_dimensional" for r in rotaries)
        and spec.embedding.block_positions is None
    )
