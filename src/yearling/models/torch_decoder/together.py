"""Plain causal attention of several short sequences in one call.

A call has its price: for the 16 rows of 128 tokens that a small model learns from, 16 calls a layer
cost more than what they compute. So sequences of similar length are laid side by side, the shorter
filled up behind their end, where a causal mask hides it from every token that counts.

Legend: B sequences side by side, L tokens of the longest, T tokens of a step, H heads, D head size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from yearling.models.spec import Alibi, Attention
from yearling.models.torch_decoder.segments import Segments

__all__ = ["SideBySide", "attend_together", "can_attend_together", "lay_side_by_side"]

_PAIRS_OF_A_CALL = 1 << 14  # pairs of tokens that could be computed while a call begins


class SideBySide(NamedTuple):
    """Sequences that one call computes.

    Attributes:
        rows: Their rows of the batch, sequence after sequence (n,).
        slots: The place of each among the B x L that are computed (n,).
        num_sequences: B.
        length: L.
    """

    rows: Tensor
    slots: Tensor
    num_sequences: int
    length: int

    @property
    def is_full(self) -> bool:
        """Whether nothing is filled up."""
        return len(self.slots) == self.num_sequences * self.length


def lay_side_by_side(segments: Segments, device: torch.device) -> list[SideBySide]:
    """Divide sequences among calls so that filling up costs less than a call would."""
    longest_first = sorted(segments, key=lambda segment: -segment.length)
    groups = [[longest_first[0]]]
    for segment in longest_first[1:]:
        wasted = groups[-1][0].length ** 2 - segment.length**2
        if wasted <= _PAIRS_OF_A_CALL:
            groups[-1].append(segment)
        else:
            groups.append([segment])
    laid = []
    for group in groups:
        length = group[0].length
        in_order = sorted(group, key=lambda segment: segment.rows.start)
        rows = [torch.arange(s.rows.start, s.rows.stop) for s in in_order]
        slots = [torch.arange(s.length) + place * length for place, s in enumerate(in_order)]
        sides = (torch.cat(rows).to(device), torch.cat(slots).to(device))
        laid.append(SideBySide(*sides, len(group), length))
    return laid


def can_attend_together(attention: Attention, segments: Segments) -> bool:
    """Whether every token sees exactly those of its sequence up to itself, and nothing biases."""
    longest = max(segments.lengths)
    return (
        attention.mask == "causal"
        and not isinstance(attention.positions, Alibi)
        and attention.soft_cap is None
        and (attention.window is None or attention.window >= longest)
    )


def attend_together(
    attention: Attention,
    heads: tuple[Float[Tensor, "T H D"], Float[Tensor, "T G D"], Float[Tensor, "T G D"]],
    laid: Sequence[SideBySide],
) -> Float[Tensor, "T H D"]:
    """Attend from queries to keys and values, each sequence by itself."""
    mixed = []
    for group in laid:
        queries, keys, values = (_laid(part, group, alone=len(laid) == 1) for part in heads)
        attended = F.scaled_dot_product_attention(
            queries,
            keys,
            values,
            is_causal=True,
            scale=attention.scale,
            enable_gqa=queries.shape[1] != keys.shape[1],
        )
        flat = attended.transpose(1, 2).flatten(0, 1)
        mixed.append(flat if group.is_full else flat.index_select(0, group.slots))
    if len(laid) == 1:
        return mixed[0]
    order = torch.cat([group.rows for group in laid]).argsort()
    return torch.cat(mixed).index_select(0, order)


def _laid(rows: Tensor, group: SideBySide, *, alone: bool) -> Tensor:
    """Rows (T, H, D) of the group as (B, H, L, D); filled up with zeros."""
    own = rows if alone else rows.index_select(0, group.rows)
    if not group.is_full:
        empty = own.new_zeros(group.num_sequences * group.length, *own.shape[1:])
        own = empty.index_copy(0, group.slots, own)
    return own.view(group.num_sequences, group.length, *own.shape[1:]).transpose(1, 2)
