"""Pretraining: learn every token of plain text, and so also continued pretraining on a new domain.

Next-token cross-entropy over documents. A long document is cut into blocks of `length` tokens that
overlap by one, so that each of its tokens but the very first is learned exactly once; what remains
at its end stays a shorter block, since packed rows need no padding. Blocks of different documents
do not see each other. To be used for text without a question; answers are `sft`'s.

Source: Radford et al. 2019 (GPT-2), section 2; attention that ends with the document: Grattafiori
et al. 2024, arXiv:2407.21783, section 3.2.
"""

from collections.abc import Sequence

from pydantic import Field

from yearling.core.config import Config
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Example
from yearling.data.lengths import cut_into_blocks
from yearling.data.render import Renderer
from yearling.data.rows import RowId
from yearling.models.torch_decoder import labelled_losses
from yearling.training.batch import PackedBatch
from yearling.training.method import Method, Start, methods
from yearling.training.objective import Loss, Objective, Update

__all__ = ["PretrainConfig", "method"]


class PretrainConfig(Config):
    """Options of pretraining."""

    length: int = Field(default=1_024, ge=2, description="Most tokens of a block.")


def _encode(
    row_id: RowId, example: Example, renderer: Renderer, config: PretrainConfig
) -> Sequence[EncodedRow]:
    return [
        EncodedRow(row_id, (block,))
        for sequence in renderer.encode(row_id, example).sequences
        for block in cut_into_blocks(sequence, config.length)
    ]


def _objective(config: PretrainConfig, start: Start) -> Objective[PackedBatch]:
    model = start.model

    def loss(batch: PackedBatch) -> Loss:
        hidden = model(batch.tokens, batch.segments)
        return Loss(labelled_losses(model, hidden, batch.labels).sum())

    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    update = Update("loss", trained, loss, lambda batch: float(batch.num_labels))
    return Objective({"model": model}, [update])


method = methods.register(
    Method(
        summary="Learn every token of plain text, in blocks of a fixed length.",
        source="Radford et al. 2019 (GPT-2), section 2",
        config=PretrainConfig,
        kinds=("document",),
        encode=_encode,
        objective=_objective,
    ),
    __name__,
)
