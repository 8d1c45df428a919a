"""A pass over a whole data set without training on it: what would be kept, and how long it is."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yearling.data.config import DataConfig
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Document, Example
from yearling.data.ledger import Ledger
from yearling.data.lengths import LengthLimit, cut_into_blocks, encode_rows
from yearling.data.pipeline import read_examples
from yearling.data.render import Renderer
from yearling.data.rows import RowId

__all__ = ["DataCheck", "check_data", "encoded_rows"]

_PERCENTILES = (0, 50, 90, 99, 100)


@dataclass(frozen=True)
class DataCheck:
    """What a pass over the data found.

    Attributes:
        ledger: What became of every row.
        max_drop: Largest share of rows that may be lost.
        template_hash: Of the template and tokenizer that rendered them.
        num_tokens: Of all kept rows.
        num_labels: Tokens with loss among them.
        lengths: Tokens of a row at each percentile; empty when none was kept.
    """

    ledger: Ledger
    max_drop: float
    template_hash: str
    num_tokens: int
    num_labels: int
    lengths: dict[int, int]

    @property
    def is_good(self) -> bool:
        """Whether a run would start: rows are kept, and no more lost than allowed."""
        lost, rows_in = self.ledger.num_lost, self.ledger.rows_in
        return self.ledger.kept > 0 and lost <= self.max_drop * rows_in

    def report(self) -> dict[str, Any]:
        """Give it as JSON values."""
        return {
            "is_good": self.is_good,
            "max_drop": self.max_drop,
            "template_hash": self.template_hash,
            "tokens": self.num_tokens,
            "tokens_with_loss": self.num_labels,
            "length_percentiles": {str(share): size for share, size in self.lengths.items()},
            "ledger": self.ledger.report(),
        }


def check_data(config: DataConfig, renderer: Renderer, limit: LengthLimit) -> DataCheck:
    """Read, filter and encode every row, and count.

    Nothing stops the pass early: the point is to see all that is wrong.

    Raises:
        DataError: a path leads to nothing, or the model has no chat template.
    """
    ledger = Ledger()
    patient = config.model_copy(update={"max_drop": 1.0})
    num_labels, lengths = 0, []
    for row in encoded_rows(patient, renderer, limit, ledger):
        lengths.append(row.num_tokens)
        num_labels += row.num_labels
    points = np.percentile(lengths or [0], _PERCENTILES, method="nearest")
    return DataCheck(
        ledger,
        config.max_drop,
        renderer.template_hash,
        sum(lengths),
        num_labels,
        dict(zip(_PERCENTILES, map(int, points), strict=True)) if lengths else {},
    )


def encoded_rows(
    config: DataConfig, renderer: Renderer, limit: LengthLimit, ledger: Ledger
) -> Iterator[EncodedRow]:
    """Read rows and encode them as training does; documents come in blocks.

    Raises:
        DataError: a path leads to nothing, or too many rows are lost.
    """

    def encode(row_id: RowId, example: Example) -> Sequence[EncodedRow]:
        row = renderer.encode(row_id, example)
        if not isinstance(example, Document):
            return [row]
        blocks = cut_into_blocks(row.sequences[0], limit.max_length)
        return [EncodedRow(row_id, (block,)) for block in blocks]

    return encode_rows(read_examples(config, ledger), encode, limit, ledger)
