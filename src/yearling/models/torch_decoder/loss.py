"""Next-token losses, with logits only where there is a label.

Legend: T tokens of a batch, E width, V vocabulary, N rows with a label.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from yearling.models.spec import Head
from yearling.models.torch_decoder.decoder import TorchDecoder

__all__ = ["NO_LABEL", "labelled_losses"]

NO_LABEL = -100
"""Stands where a row has no label."""

_ROWS_OF_A_PART, _LOGITS_OF_A_PART = 1_024, 2_048
"""What is computed at once under a frozen head: up to 8 MB."""


def labelled_losses(
    decoder: TorchDecoder,
    hidden: Float[Tensor, "T E"],
    labels: Int[Tensor, " T"],
    *,
    rows_at_once: int = 256,
) -> Float[Tensor, " N"]:
    """Cross-entropy in nats of each label, in order of the rows that have one.

    Logits are computed for these rows alone, and never held all at once. Under a frozen head they
    are computed once, for a part of the vocabulary at a time, and their gradient with them; a head
    that learns computes them again in the backward pass, some rows at a time.

    Args:
        decoder: Whose head projects.
        hidden: What its forward pass gave.
        labels: For each row the id that follows it, or `NO_LABEL`: the last row of a sequence
            has none, nor have rows of a prompt that is not learned.
        rows_at_once: Rows of logits held at once under a head that learns.
    """
    rows = (labels != NO_LABEL).nonzero(as_tuple=True)[0]
    if not len(rows):
        return hidden.new_zeros(0, dtype=torch.float32)
    chosen, targets = hidden.index_select(0, rows), labels.index_select(0, rows)
    if (table := _frozen_table(decoder, hidden)) is not None:
        head = decoder.spec.head
        assert isinstance(head, Head)
        return _FrozenHeadLosses.apply(chosen, table, targets, head.scale)  # type: ignore[no-any-return, no-untyped-call]

    def losses(part: Tensor, wanted: Tensor) -> Tensor:
        return F.cross_entropy(decoder.logits(part).float(), wanted, reduction="none")

    parts = zip(torch.split(chosen, rows_at_once), torch.split(targets, rows_at_once), strict=True)
    return torch.cat([checkpoint(losses, *part, use_reentrant=False) for part in parts])


def _frozen_table(decoder: TorchDecoder, hidden: Tensor) -> Float[Tensor, "V E"] | None:
    """The matrix of a head that is one matrix and learns nothing, in the type of the rows."""
    head, table = decoder.spec.head, decoder.head_table()
    if not isinstance(head, Head) or head.soft_cap is not None or table is None:
        return None
    is_plain = not table.requires_grad and table.dtype == hidden.dtype == torch.float32
    return table if is_plain else None


class _FrozenHeadLosses(torch.autograd.Function):
    """Losses under a frozen head, whose gradient is computed beside them.

    The gradient of a row's loss by its hidden state, softmax @ table less the label's row of it,
    needs nothing of the backward pass but a factor a row. Both are sums over the vocabulary, so
    logits are computed for a part of it at a time, as attention does with keys: a part stays in
    the processor's cache, and earlier sums shrink when a larger logit comes.

    Source: Milakov & Gimelshein 2018, arXiv:1805.02867, algorithm 3.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N E"],
        table: Float[Tensor, "V E"],
        targets: Int[Tensor, " N"],
        scale: float,
    ) -> Float[Tensor, " N"]:
        hidden = hidden if scale == 1.0 else hidden * scale
        losses = hidden.new_empty(len(hidden))
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), _ROWS_OF_A_PART):
            part = slice(start, start + _ROWS_OF_A_PART)
            own = None if gradient is None else gradient[part]
            _sum_over_vocabulary(hidden[part], table, targets[part], losses[part], own)
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(scale) if scale != 1.0 else gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None], None, None, None


def _sum_over_vocabulary(
    hidden: Float[Tensor, "N E"],
    table: Float[Tensor, "V E"],
    targets: Int[Tensor, " N"],
    losses: Float[Tensor, " N"],
    gradient: Float[Tensor, "N E"] | None,
) -> None:
    """Fill in the losses of some rows, and the gradient by `hidden` where one is wanted."""
    largest = hidden.new_full((len(hidden), 1), -torch.inf)
    total = torch.zeros_like(largest)
    part_of_logits = hidden.new_empty(len(hidden) * min(_LOGITS_OF_A_PART, len(table)))
    if gradient is not None:
        gradient.zero_()
    for columns in torch.split(table, _LOGITS_OF_A_PART):
        logits = part_of_logits[: len(hidden) * len(columns)].view(len(hidden), len(columns))
        torch.mm(hidden, columns.T, out=logits)
        before, largest = largest, torch.maximum(largest, logits.amax(1, keepdim=True))
        shrunk = (before - largest).exp_()
        logits.sub_(largest).exp_()
        total.mul_(shrunk).add_(logits.sum(1, keepdim=True))
        if gradient is not None:
            gradient.mul_(shrunk).addmm_(logits, columns)
    of_labels = table.index_select(0, targets)
    right = torch.linalg.vecdot(hidden, of_labels)
    losses.copy_((largest + total.log())[:, 0] - right)
    if gradient is not None:
        gradient.div_(total).sub_(of_labels)
