"""Examples as token ids with loss masks: what every method of text trains on.

Legend: T tokens of a sequence.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yearling.data.rows import RowId

__all__ = ["EncodedRow", "EncodedSequence"]


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSequence:
    """One token sequence.

    Attributes:
        tokens: Ids, int32 (T,).
        has_loss: For each token whether predicting it is learned, bool (T,); the first token
            never has loss, since nothing comes before it.
        num_prompt: Leading tokens that are the prompt; 0 for a document. Models whose prompt
            tokens see each other need it.
    """

    tokens: NDArray[np.int32]
    has_loss: NDArray[np.bool_]
    num_prompt: int = 0

    @property
    def num_labels(self) -> int:
        """Tokens with loss."""
        return int(self.has_loss.sum())


@dataclass(frozen=True, slots=True, eq=False)
class EncodedRow:
    """A row as sequences: one of a conversation, two (chosen, rejected) of a preference."""

    id: RowId
    sequences: tuple[EncodedSequence, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of all its sequences."""
        return sum(len(sequence.tokens) for sequence in self.sequences)

    @property
    def num_labels(self) -> int:
        """Tokens with loss of all its sequences."""
        return sum(sequence.num_labels for sequence in self.sequences)
