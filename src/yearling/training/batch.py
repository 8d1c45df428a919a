"""A packed micro-batch of text: several sequences one after another, without padding.

Legend: T tokens of the micro-batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from yearling.data.encoded import EncodedRow
from yearling.data.rows import RowId
from yearling.models.torch_decoder import NO_LABEL, Segments

__all__ = ["PackedBatch", "pack_rows"]


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Sequences one after another.

    Attributes:
        tokens: Ids (T,), int64.
        labels: For each token the id that follows it in its sequence, or `NO_LABEL` (T,).
        segments: Where sequences begin and end; a row's sequences stand together.
        row_ids: Rows in order.
        sequences_per_row: 1, or 2 for preferences.
        lane: Which half of the processor's threads computes it; None for all of them.
    """

    tokens: Int[Tensor, " T"]
    labels: Int[Tensor, " T"]
    segments: Segments
    row_ids: Sequence[RowId]
    sequences_per_row: int = 1
    lane: int | None = None

    @property
    def num_labels(self) -> int:
        """Tokens whose prediction is learned."""
        return int((self.labels != NO_LABEL).sum())

    def to(self, device: torch.device | str) -> "PackedBatch":
        """The same batch on a device."""
        return PackedBatch(
            self.tokens.to(device),
            self.labels.to(device),
            self.segments,
            self.row_ids,
            self.sequences_per_row,
            self.lane,
        )


def pack_rows(rows: Sequence[EncodedRow], lane: int | None = None) -> PackedBatch:
    """Put rows one after another.

    Args:
        rows: At least one.
        lane: Of the batch.

    Raises:
        ValueError: there is no row, or rows differ in how many sequences they have.
    """
    counts = {len(row.sequences) for row in rows}
    if len(counts) != 1:
        raise ValueError(f"rows of {sorted(counts)} sequences cannot be one batch.")
    sequences = [sequence for row in rows for sequence in row.sequences]
    tokens = [torch.from_numpy(sequence.tokens).long() for sequence in sequences]
    labels = []
    for sequence, ids in zip(sequences, tokens, strict=True):
        following = torch.full_like(ids, NO_LABEL)
        is_learned = torch.from_numpy(sequence.has_loss)[1:]
        following[:-1] = torch.where(is_learned, ids[1:], NO_LABEL)
        labels.append(following)
    return PackedBatch(
        torch.cat(tokens),
        torch.cat(labels),
        Segments([len(ids) for ids in tokens], prefixes=[s.num_prompt for s in sequences]),
        [row.id for row in rows],
        counts.pop(),
        lane,
    )
