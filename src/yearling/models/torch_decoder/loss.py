"""Next-token losses, with logits only where there is a label.

Legend: T tokens of a batch, E width.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from yearling.models.torch_decoder.decoder import TorchDecoder

__all__ = ["NO_LABEL", "labelled_losses"]

NO_LABEL = -100
"""Stands where a row has no label."""


def labelled_losses(
    decoder: TorchDecoder,
    hidden: Float[Tensor, "T E"],
    labels: Int[Tensor, " T"],
    *,
    rows_at_once: int = 1_024,
) -> Float[Tensor, " labelled"]:
    """Cross-entropy in nats of each label, in order of the rows that have one.

    Logits are computed for these rows alone, some at a time, and again in the backward pass, so
    that never more than `rows_at_once` rows of them take memory.

    Args:
        decoder: Whose head projects.
        hidden: What its forward pass gave.
        labels: For each row the id that follows it, or `NO_LABEL`: the last row of a sequence
            has none, nor have rows of a prompt that is not learned.
        rows_at_once: Rows of logits held at once.
    """
    rows = (labels != NO_LABEL).nonzero(as_tuple=True)[0]
    if not len(rows):
        return hidden.new_zeros(0, dtype=torch.float32)

    def losses(part: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(decoder.logits(part).float(), targets, reduction="none")

    return torch.cat(
        [
            checkpoint(losses, hidden[part], labels[part], use_reentrant=False)
            for part in torch.split(rows, rows_at_once)
        ]
    )
