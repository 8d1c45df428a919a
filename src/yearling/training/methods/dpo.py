"""Direct preference optimisation: learn which of two answers is better, without a reward model.

The policy's own log-probabilities, measured against those of the model it started from, stand for
a reward; a logistic loss raises the chosen answer's above the rejected one's. Unlike PPO nothing is
sampled and no second model is trained: one forward pass of the policy and one of the reference over
fixed pairs. To be used behind `sft`, when people or a judge have said which of two answers they
prefer; `sft` on the chosen answers alone never learns what to avoid.

Source: Rafailov et al. 2023, arXiv:2305.18290; label smoothing: Mitchell 2023, "A note on DPO with
noisy preferences and relationship to IPO".

Legend: S sequences of a batch, chosen and rejected by turns.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from yearling.core.config import Config
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Example
from yearling.data.render import Renderer
from yearling.data.rows import RowId
from yearling.models.torch_decoder import NO_LABEL, TorchDecoder, labelled_losses
from yearling.training.batch import PackedBatch
from yearling.training.method import Method, Start, methods
from yearling.training.objective import Loss, Objective, Update

__all__ = ["DpoConfig", "dpo_loss", "method", "sequence_log_probabilities"]


class DpoConfig(Config):
    """Options of direct preference optimisation."""

    beta: float = Field(
        default=0.1, gt=0, description="Pull towards the reference; larger stays closer to it."
    )
    label_smoothing: float = Field(
        default=0.0, ge=0, lt=0.5, description="Share of pairs taken to be the wrong way round."
    )


def dpo_loss(
    policy_margin: Float[Tensor, " pairs"],
    reference_margin: Float[Tensor, " pairs"],
    *,
    beta: float,
    label_smoothing: float = 0.0,
) -> Float[Tensor, " pairs"]:
    """Penalise pairs whose chosen answer the policy favours no more than the reference does.

    A margin is log p(chosen) - log p(rejected), in nats, summed over answer tokens only.

    Args:
        policy_margin: Of the model that learns.
        reference_margin: Of the model it started from.
        beta: Pull towards the reference, > 0; 0.1 is usual, larger stays closer.
        label_smoothing: Share of pairs taken to be the wrong way round, in [0, 0.5).
    Raises:
        ValueError: beta is not positive, or label_smoothing lies outside its range.
    Source: Rafailov et al. 2023, arXiv:2305.18290, eq. 7.

    >>> dpo_loss(torch.zeros(1), torch.zeros(1), beta=0.1)  # no preference yet: ln 2
    tensor([0.6931])
    """
    if beta <= 0 or not 0 <= label_smoothing < 0.5:
        raise ValueError(
            f"beta={beta} must be positive and label_smoothing={label_smoothing} in [0, 0.5)."
        )
    advantage = beta * (policy_margin - reference_margin)
    right, wrong = -F.logsigmoid(advantage), -F.logsigmoid(-advantage)
    return (1 - label_smoothing) * right + label_smoothing * wrong


def sequence_log_probabilities(model: TorchDecoder, batch: PackedBatch) -> Float[Tensor, " S"]:
    """Log-probability of each sequence's labelled tokens, in nats, summed."""
    losses = labelled_losses(model, model(batch.tokens, batch.segments), batch.labels)
    lengths = torch.tensor(list(batch.segments.lengths), device=losses.device)
    sequence = torch.arange(len(lengths), device=losses.device).repeat_interleave(lengths)
    totals = losses.new_zeros(len(lengths))
    return totals.index_add(0, sequence[batch.labels != NO_LABEL], -losses)


def _encode(
    row_id: RowId, example: Example, renderer: Renderer, config: DpoConfig
) -> Sequence[EncodedRow]:
    return [renderer.encode(row_id, example)]


def _objective(config: DpoConfig, start: Start) -> Objective[PackedBatch]:
    model = start.model

    def loss(batch: PackedBatch) -> Loss:
        # The reference first: its adapter must be back on before layers are computed again.
        with torch.no_grad(), start.reference() as reference:
            before = sequence_log_probabilities(reference, batch)
        now = sequence_log_probabilities(model, batch)
        losses = dpo_loss(
            now[0::2] - now[1::2],
            before[0::2] - before[1::2],
            beta=config.beta,
            label_smoothing=config.label_smoothing,
        )
        return Loss(losses.sum(), _metrics(config.beta * (now.detach() - before)))

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    update = Update("loss", trained, loss, lambda batch: float(len(batch.row_ids)))
    return Objective({"model": model}, [update])


def _metrics(rewards: Float[Tensor, " S"]) -> dict[str, float]:
    """Sums over pairs; a reward is beta · log(policy / reference)."""
    chosen, rejected = rewards[0::2], rewards[1::2]
    return {
        "accuracy": float((chosen > rejected).sum()),
        "margin": float((chosen - rejected).sum()),
        "reward_chosen": float(chosen.sum()),
        "reward_rejected": float(rejected.sum()),
    }


method = methods.register(
    Method(
        summary="Learn which of two answers is better, measured against the model it began as.",
        source="Rafailov et al. 2023, arXiv:2305.18290",
        config=DpoConfig,
        kinds=("preference",),
        encode=_encode,
        objective=_objective,
        switches_model=True,
    ),
    __name__,
)
