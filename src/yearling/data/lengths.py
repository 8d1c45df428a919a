"""The last stage of the data: rows to ids within a length, each one written in the ledger."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.examples import Example
from yearling.data.ledger import Ledger
from yearling.data.row_error import NOTHING_TO_LEARN, TOO_LONG, RowError
from yearling.data.rows import RowId

__all__ = ["LengthLimit", "cut_into_blocks", "encode_rows"]

Encode = Callable[[RowId, Example], Sequence[EncodedRow]]
_TURNS_CUT = "too long, so its last turns were left out"
_ANSWER_CUT = "too long, so the end of an answer was left out"


@dataclass(frozen=True, slots=True)
class LengthLimit:
    """How long a sequence may be, and what becomes of longer ones.

    Attributes:
        max_length: Most tokens of one sequence, at least 2.
        overlong: `drop` leaves the row out; `truncate` keeps the turns up to the last answer
            that fits whole, or else as much of the first answer as fits.
    """

    max_length: int
    overlong: Literal["drop", "truncate"] = "drop"


def encode_rows(
    examples: Iterable[tuple[RowId, Example]], encode: Encode, limit: LengthLimit, ledger: Ledger
) -> Iterator[EncodedRow]:
    """Encode examples; each one is kept or dropped in the ledger, with the reason.

    Args:
        examples: What `pipeline` read.
        encode: Makes rows of an example: a training method's, or the renderer's.
        limit: Applied to each sequence.
        ledger: The one that the examples were read with.
    """
    for row_id, example in examples:
        try:
            rows, cuts = _fitting(encode(row_id, example), limit)
        except RowError as error:
            ledger.drop(row_id, error.reason, error.detail)
            continue
        for reason in sorted(cuts):
            ledger.truncate(row_id, reason, f"to {limit.max_length} tokens")
        ledger.keep(row_id, example)
        yield from rows


def cut_into_blocks(sequence: EncodedSequence, length: int) -> list[EncodedSequence]:
    """Cut a document into blocks; each begins with the last token of the one before.

    So every token but the document's first is learned exactly once. A document of one token has
    nothing to learn and gives no block.

    Args:
        sequence: Ids of a document.
        length: Most tokens of a block, at least 2.

    >>> whole = EncodedSequence(np.arange(6, dtype=np.int32), np.arange(6) > 0)
    >>> [block.tokens.tolist() for block in cut_into_blocks(whole, 4)]
    [[0, 1, 2, 3], [3, 4, 5]]
    """
    blocks = []
    for first in range(0, len(sequence.tokens) - 1, length - 1):
        part = slice(first, first + length)
        has_loss = sequence.has_loss[part].copy()
        has_loss[0] = False
        prompt = min(max(sequence.num_prompt - first, 0), length)
        blocks.append(EncodedSequence(sequence.tokens[part], has_loss, prompt))
    return blocks


def _fitting(rows: Sequence[EncodedRow], limit: LengthLimit) -> tuple[list[EncodedRow], set[str]]:
    """The rows within the limit, and the reasons for which some were cut."""
    if not rows:
        raise RowError(NOTHING_TO_LEARN, "the method makes nothing of it.")
    cuts: set[str] = set()
    fitting = []
    for row in rows:
        sequences = tuple(_fit(sequence, limit, cuts) for sequence in row.sequences)
        fitting.append(EncodedRow(row.id, sequences))
    return fitting, cuts


def _fit(sequence: EncodedSequence, limit: LengthLimit, cuts: set[str]) -> EncodedSequence:
    length, longest = len(sequence.tokens), limit.max_length
    if length <= longest:
        return sequence
    too_long = f"it has {length} tokens, and max_length is {longest}"
    if limit.overlong == "drop":
        raise RowError(TOO_LONG, f"{too_long}; overlong=truncate would cut its end off.")
    ends = np.flatnonzero(sequence.has_loss & ~np.append(sequence.has_loss[1:], False)) + 1
    whole = ends[ends <= longest]
    cuts.add(_TURNS_CUT if len(whole) else _ANSWER_CUT)
    end = int(whole[-1]) if len(whole) else longest
    if not sequence.has_loss[:end].any():
        raise RowError(TOO_LONG, f"{too_long}; its prompt alone takes {sequence.num_prompt}.")
    return EncodedSequence(sequence.tokens[:end], sequence.has_loss[:end], sequence.num_prompt)
