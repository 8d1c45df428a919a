"""Packed rows: several sequences in one batch of tokens, without padding, and their positions.

Legend: T tokens of a step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

__all__ = ["Positions", "Segment", "Segments", "positions_of"]


class Segment(NamedTuple):
    """One sequence of a packed batch.

    Attributes:
        rows: Its rows of the batch.
        start: Position of its first token; what comes before lies in a cache, or nowhere.
        length: Tokens of it in the batch.
        prefix: Leading tokens of the sequence that are its prefix.
    """

    rows: slice
    start: int
    length: int
    prefix: int

    @property
    def end(self) -> int:
        """One past the position of its last token here."""
        return self.start + self.length


@dataclass(frozen=True)
class Segments:
    """How the rows of a packed batch divide into sequences, in order.

    Attributes:
        lengths: Tokens of each sequence, at least one.
        starts: Position of each sequence's first token; empty for all 0.
        prefixes: Tokens of each sequence's prefix, which a prefix mask shows to all its tokens;
            empty for all 0.
    """

    lengths: Sequence[int]
    starts: Sequence[int] = ()
    prefixes: Sequence[int] = ()

    def __post_init__(self) -> None:
        counts = {len(self.lengths), len(self.starts), len(self.prefixes)} - {0}
        if len(counts) != 1 or min(self.lengths, default=0) < 1:
            raise ValueError(
                f"segments with lengths={list(self.lengths)}, starts={list(self.starts)}, "
                f"prefixes={list(self.prefixes)}: every sequence needs one token at least, and "
                "one start and prefix each unless those are left out."
            )

    @property
    def num_tokens(self) -> int:
        """Rows of the batch."""
        return sum(self.lengths)

    def __iter__(self) -> Iterator[Segment]:
        """Go through the sequences in order."""
        zeros = (0,) * len(self.lengths)
        ends = accumulate(self.lengths)
        return iter(
            [
                Segment(slice(end - length, end), start, length, prefix)
                for end, length, start, prefix in zip(
                    ends, self.lengths, self.starts or zeros, self.prefixes or zeros, strict=True
                )
            ]
        )


@dataclass(frozen=True)
class Positions:
    """The positions of every token of a packed batch; `kernels.ops` says what they mean.

    Attributes:
        token: From the start of its sequence.
        span: As `token` inside the prefix, standing still at the prefix's last token behind it.
        block: 0 inside the prefix, then 1, 2, …
        length: What rotations that depend on the length go by: the prefix, or the tokens so far.
    """

    token: Int[Tensor, " T"]
    span: Int[Tensor, " T"]
    block: Int[Tensor, " T"]
    length: Int[Tensor, " T"]


def positions_of(segments: Segments, device: torch.device) -> Positions:
    """Work out the positions of a packed batch.

    >>> positions = positions_of(Segments([4, 2], prefixes=[2, 0]), torch.device("cpu"))
    >>> positions.token.tolist(), positions.span.tolist(), positions.block.tolist()
    ([0, 1, 2, 3, 0, 1], [0, 1, 1, 1, 0, 0], [0, 0, 1, 2, 1, 2])
    """
    tokens = [torch.arange(s.start, s.end) for s in segments]
    token = torch.cat(tokens).to(device)
    prefixes = torch.tensor([s.prefix for s in segments])
    prefix = prefixes.repeat_interleave(torch.tensor(list(segments.lengths))).to(device)
    is_prefix = token < prefix
    return Positions(
        token=token,
        span=torch.where(is_prefix, token, (prefix - 1).clamp(min=0)),
        block=torch.where(is_prefix, 0, token - prefix + 1),
        length=torch.maximum(prefix, token + 1),
    )
