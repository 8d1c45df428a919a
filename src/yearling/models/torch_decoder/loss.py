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


def labelled_losses(
    decoder: TorchDecoder,
    hidden: Float[Tensor, "T E"],
    labels: Int[Tensor, " T"],
    *,
    rows_at_once: int = 256,
) -> Float[Tensor, " N"]:
    """Cross-entropy in nats of each label, in order of the rows that have one.

    Logits are computed for these rows alone, some at a time, so that never more than
    `rows_at_once` rows of them take memory. Under a frozen head they are computed once, and their
    gradient with them; a head that learns computes them again in the backward pass.

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
    chosen, targets = hidden.index_select(0, rows), labels.index_select(0, rows)
    if (table := _frozen_table(decoder, hidden)) is not None:
        head = decoder.spec.head
        assert isinstance(head, Head)
        return _FrozenHeadLosses.apply(chosen, table, targets, head.scale, rows_at_once)  # type: ignore[no-any-return, no-untyped-call]

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

    The gradient of a row's loss by its hidden state, (softmax - one-hot) @ table, needs nothing of
    the backward pass but a factor a row. It takes (N, E) where the logits would take (N, V).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "N E"],
        table: Float[Tensor, "V E"],
        targets: Int[Tensor, " N"],
        scale: float,
        rows_at_once: int,
    ) -> Float[Tensor, " N"]:
        losses = hidden.new_empty(len(hidden))
        gradient = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        logits = hidden.new_empty(min(rows_at_once, len(hidden)), len(table))
        for start in range(0, len(hidden), rows_at_once):
            part = slice(start, start + rows_at_once)
            scores = logits[: len(hidden[part])]
            torch.mm(hidden[part], table.T, out=scores)
            if scale != 1.0:
                scores.mul_(scale)
            wanted = targets[part, None]
            right = scores.gather(1, wanted)
            total = scores.logsumexp(1, keepdim=True)
            losses[part] = (total - right)[:, 0]
            if gradient is not None:
                scores.sub_(total).exp_()
                scores.scatter_add_(1, wanted, scores.new_full(wanted.shape, -1.0))
                torch.mm(scores, table, out=gradient[part])
        if gradient is not None:
            ctx.save_for_backward(gradient.mul_(scale) if scale != 1.0 else gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0][:, None], None, None, None, None
