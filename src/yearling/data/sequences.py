"""Pieces that every kind of example shares: text that goes on, and ids with spans of loss."""

from collections.abc import Sequence

import numpy as np

from yearling.data.encoded import EncodedSequence
from yearling.data.row_error import NOTHING_TO_LEARN, RowError
from yearling.models.tokenizer import Tokenizer

__all__ = ["encode_going_on", "masked_sequence"]

_ANCHOR = "\n"  # no merge of a SentencePiece vocabulary reaches over the end of a line


def encode_going_on(tokenizer: Tokenizer, parts: Sequence[str | int]) -> list[int]:
    """Encode what follows other ids: as a text, but without the space put before a text.

    Raises:
        RowError: the tokenizer cannot encode it apart from what is before it.
    """
    if not parts:
        return []
    first, *rest = parts
    if isinstance(first, int) or not tokenizer.adds_space_prefix:
        return tokenizer.encode_parts(parts)
    head = tokenizer.encode_parts([_ANCHOR])
    ids = tokenizer.encode_parts([_ANCHOR + first, *rest])
    if ids[: len(head)] != head:
        raise RowError(
            "a token spans the start of an answer",
            "the answer cannot be encoded apart from what is before it.",
        )
    return ids[len(head) :]


def masked_sequence(
    ids: Sequence[int], spans: Sequence[tuple[int, int]], *, num_prompt: int = 0
) -> EncodedSequence:
    """Give ids loss in spans (start, end); the first token never has any.

    Raises:
        RowError: no token has loss.
    """
    has_loss = np.zeros(len(ids), bool)
    for start, end in spans:
        has_loss[start:end] = True
    has_loss[:1] = False
    if not has_loss.any():
        raise RowError(NOTHING_TO_LEARN, "no token has loss.")
    return EncodedSequence(np.asarray(ids, np.int32), has_loss, num_prompt)
