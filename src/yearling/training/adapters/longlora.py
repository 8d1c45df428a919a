"""LongLoRA: LoRA for longer contexts, with attention in shifted groups while it trains.

A sequence is cut into groups; half of the heads attend inside them, the other half inside groups
that begin half a group later, so that neighbours hear of each other. Embeddings and norms are
trained whole beside the low-rank updates. Afterwards attention is what it always was, so the
model is served like any other. Extend the base's positions first; see `training.context`.

What differs from the published code: there the shifted heads' last group wraps around to the
sequence's first tokens, which then see its end. Here these two half groups attend by themselves.

Source: Chen et al. 2023, arXiv:2309.12307, section 3.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from yearling.core.errors import UnsupportedError
from yearling.models.spec import Alibi, Attention
from yearling.models.torch_decoder import SeenKeys, Segment, TorchDecoder
from yearling.models.torch_decoder.attention import attend
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.lora_layers import (
    LowRank,
    attach_low_rank,
    load_low_rank,
    merge_low_rank,
    save_low_rank,
    without_low_rank,
)

__all__ = ["LongLoraConfig", "ShiftedGroups", "attended_fraction"]


class LongLoraConfig(LowRank):
    """Options of LongLoRA."""

    r: int = Field(default=8, ge=1, description="Rank of the update.")
    alpha: float = Field(
        default=16.0, gt=0, description="The update is multiplied by alpha / r, or alpha / sqrt(r)."
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default=("query", "key", "value", "output"),
        min_length=1,
        description="all-linear (all but the head), or roles and names of linear layers.",
    )
    trained_whole: tuple[str, ...] = Field(
        default=("embeddings", "norms"),
        description="Layers trained whole beside it: embeddings, norms, roles or names.",
    )
    group_tokens: int | None = Field(
        default=None,
        ge=2,
        multiple_of=2,
        description="Tokens of a group; by default a quarter of the model's context.",
    )
    is_shifted: bool = Field(
        default=True, description="Whether half of the heads' groups begin half a group later."
    )


@dataclass(frozen=True, slots=True)
class ShiftedGroups:
    """Attention of half the heads inside groups, of the others inside groups half a group later.

    A sequence no longer than a group attends plainly, and so does what goes on from a cache.

    Attributes:
        group_tokens: Tokens of a group, even.
        is_shifted: False leaves all heads in the same groups, to see what shifting is for.
    """

    group_tokens: int
    is_shifted: bool = True

    def __call__(
        self,
        attention: Attention,
        queries: Float[Tensor, "T H D"],
        seen: SeenKeys,
        segment: Segment,
    ) -> Float[Tensor, "T H D"]:
        """Attend as `models.torch_decoder.attention.attend` does, but in groups."""
        if segment.length <= self.group_tokens or seen.first != segment.start:
            return attend(attention, queries, seen, segment)
        heads = queries.shape[1]
        key_head = torch.arange(heads, device=queries.device) // (heads // seen.keys.shape[1])
        parts = []
        for half, first in (
            (slice(0, heads // 2), self.group_tokens),
            (slice(heads // 2, heads), self._first_shifted),
        ):
            own = SeenKeys(seen.keys[:, key_head[half]], seen.values[:, key_head[half]], seen.first)
            parts.append(self._inside(attention, queries[:, half], own, segment, first))
        return torch.cat(parts, dim=1)

    @property
    def _first_shifted(self) -> int:
        return self.group_tokens // 2 if self.is_shifted else self.group_tokens

    def _inside(
        self, attention: Attention, queries: Tensor, seen: SeenKeys, segment: Segment, first: int
    ) -> Tensor:
        """Attend inside groups of which the first has `first` tokens."""
        bounds = [0, *range(first, segment.length, self.group_tokens), segment.length]
        attended = []
        for begin, end in pairwise(bounds):
            rows, place = slice(begin, end), seen.first + begin
            group = SeenKeys(seen.keys[rows], seen.values[rows], place)
            part = Segment(rows, place, end - begin, 0)
            attended.append(attend(attention, queries[rows], group, part))
        return torch.cat(attended)


def attended_fraction(length: int, group_tokens: int) -> float:
    """Pairs of tokens that shifted groups compute, as a share of all causal pairs.

    Products of attention cost as much as there are pairs, so this is the ratio of their FLOPs too.

    >>> round(attended_fraction(2_048, 512), 3)
    0.235
    """

    def pairs(first: int) -> int:
        bounds = [0, *range(first, length, group_tokens), length]
        return sum((end - begin) * (end - begin + 1) // 2 for begin, end in pairwise(bounds))

    shared = (pairs(group_tokens) + pairs(group_tokens // 2)) / 2
    return shared / (length * (length + 1) / 2)


def _attach(decoder: TorchDecoder, config: LongLoraConfig, seed: int) -> None:
    for number, layer in enumerate(decoder.spec.layers):
        mixer = layer.mixer
        if not isinstance(mixer, Attention) or mixer.mask != "causal":
            raise UnsupportedError(f"longlora groups causal attention; layer {number} has none.")
        if isinstance(mixer.positions, Alibi) or mixer.heads < 2:
            raise UnsupportedError(
                f"longlora shifts half of the heads; layer {number} has {mixer.heads} with "
                f"{type(mixer.positions).__name__} positions, which are not split."
            )
    attach_low_rank(decoder, config, seed)
    group = config.group_tokens or max(decoder.spec.context // 8 * 2, 2)
    decoder.attend = ShiftedGroups(group, config.is_shifted)


def _merge(decoder: TorchDecoder) -> None:
    merge_low_rank(decoder)
    decoder.attend = attend


@contextmanager
def _without(decoder: TorchDecoder) -> Iterator[TorchDecoder]:
    pattern, decoder.attend = decoder.attend, attend
    try:
        with without_low_rank(decoder):
            yield decoder
    finally:
        decoder.attend = pattern


adapter = adapters.register(
    AdapterKind(
        summary="LoRA for longer contexts: shifted groups in training, full attention after.",
        source="Chen et al. 2023, arXiv:2309.12307",
        config=LongLoraConfig,
        attach=_attach,
        save=save_low_rank,
        load=load_low_rank,
        merge=_merge,
        disabled=_without,
    ),
    __name__,
)
