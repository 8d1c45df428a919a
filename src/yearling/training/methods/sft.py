"""Supervised fine-tuning: imitate the answers of conversations and the completions of prompts.

Next-token cross-entropy on the tokens that carry loss: those of assistant turns, or of the
completion; prompts are read, never learned. Every labelled token weighs the same, whatever row it
stands in. To be used whenever there are answers to imitate; `pretrain` learns every token of plain
text, `dpo` starts from a model that this has made and learns which of two answers is better.

Source: Ouyang et al. 2022, arXiv:2203.02155, section 3.5 (loss on answers, before any reward).
"""

from collections.abc import Sequence

from pydantic import Field

from yearling.core.config import Config
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Conversation, Example
from yearling.data.render import Renderer
from yearling.data.row_error import RowError
from yearling.data.rows import RowId
from yearling.models.torch_decoder import labelled_losses
from yearling.training.batch import PackedBatch
from yearling.training.method import Method, Start, methods
from yearling.training.objective import Loss, Objective, Update

__all__ = ["SftConfig", "method"]


class SftConfig(Config):
    """Options of supervised fine-tuning; turns say themselves whether they carry loss."""

    use_separate_answers: bool = Field(
        default=False,
        description="Whether each answer of a conversation is a sequence of its own behind its "
        "prompt: for templates that write earlier turns differently once there are later ones.",
    )


def _encode(
    row_id: RowId, example: Example, renderer: Renderer, config: SftConfig
) -> Sequence[EncodedRow]:
    if config.use_separate_answers and isinstance(example, Conversation):
        try:
            return [EncodedRow(row_id, (answer,)) for answer in renderer.answers(example)]
        except RowError as error:
            raise error.at(row_id) from None
    return [renderer.encode(row_id, example)]


def _objective(config: SftConfig, start: Start) -> Objective[PackedBatch]:
    model = start.model

    def loss(batch: PackedBatch) -> Loss:
        hidden = model(batch.tokens, batch.segments)
        return Loss(labelled_losses(model, hidden, batch.labels).sum())

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    update = Update("loss", trained, loss, lambda batch: float(batch.num_labels))
    return Objective({"model": model}, [update])


method = methods.register(
    Method(
        summary="Imitate answers: cross-entropy on the tokens that carry loss.",
        source="Ouyang et al. 2022, arXiv:2203.02155, section 3.5",
        config=SftConfig,
        kinds=("conversation", "continuation"),
        encode=_encode,
        objective=_objective,
    ),
    __name__,
)
