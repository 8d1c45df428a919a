"""Lengths: long rows are dropped or cut at an answer's end, and the ledger has each of them."""

from collections.abc import Sequence

import numpy as np
import pytest

from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.examples import Document, Example
from yearling.data.ledger import Ledger
from yearling.data.lengths import LengthLimit, cut_into_blocks, encode_rows
from yearling.data.row_error import RowError
from yearling.data.rows import RowId

# Two answers: tokens 3 to 5 and 8 to 10, each with its stop.
_TWO_ANSWERS = [False] * 3 + [True] * 3 + [False] * 2 + [True] * 3


def _run(has_loss: Sequence[bool], limit: LengthLimit) -> tuple[list[EncodedRow], Ledger]:
    def encode(row_id: RowId, example: Example) -> list[EncodedRow]:
        tokens = np.arange(len(has_loss), dtype=np.int32)
        return [EncodedRow(row_id, (EncodedSequence(tokens, np.asarray(has_loss), 3),))]

    ledger = Ledger()
    ledger.enter()
    rows = list(encode_rows([(RowId("a", 1), Document("x"))], encode, limit, ledger))
    assert not ledger.num_pending
    return rows, ledger


def test_row_within_the_limit_is_kept_whole() -> None:
    rows, ledger = _run(_TWO_ANSWERS, LengthLimit(11))
    assert rows[0].num_tokens == 11
    assert (ledger.kept, ledger.truncated) == (1, {})


def test_longer_row_is_dropped_by_name() -> None:
    rows, ledger = _run(_TWO_ANSWERS, LengthLimit(10))
    assert (rows, ledger.kept) == ([], 0)
    ((row, detail),) = ledger.lost["too long"].rows
    assert row == RowId("a", 1)
    assert "has 11 tokens, and max_length is 10" in detail


@pytest.mark.parametrize(
    ("limit", "length", "reason"),
    [
        (10, 6, "too long, so its last turns were left out"),
        (6, 6, "too long, so its last turns were left out"),
        (5, 5, "too long, so the end of an answer was left out"),
    ],
)
def test_truncated_row_ends_with_a_whole_answer_if_it_can(
    limit: int, length: int, reason: str
) -> None:
    rows, ledger = _run(_TWO_ANSWERS, LengthLimit(limit, "truncate"))
    assert rows[0].num_tokens == length
    assert rows[0].sequences[0].has_loss[-1]
    assert {name: entry.count for name, entry in ledger.truncated.items()} == {reason: 1}
    assert ledger.kept == 1


def test_row_whose_prompt_fills_the_limit_is_dropped() -> None:
    rows, ledger = _run(_TWO_ANSWERS, LengthLimit(3, "truncate"))
    assert not rows
    assert "its prompt alone takes 3" in ledger.lost["too long"].rows[0][1]


def test_row_that_cannot_be_encoded_is_counted_by_its_reason() -> None:
    def refuse(row_id: RowId, example: Example) -> list[EncodedRow]:
        if row_id.number == 1:
            raise RowError("nothing to learn", "because")
        return []

    ledger = Ledger()
    for _ in range(2):
        ledger.enter()
    examples = [(RowId("a", number), Document("x")) for number in (1, 2)]
    assert not list(encode_rows(examples, refuse, LengthLimit(9), ledger))
    details = [detail for _, detail in ledger.lost["nothing to learn"].rows]
    assert details == ["because", "the method makes nothing of it."]


@pytest.mark.parametrize("num_tokens", [1, 2, 4, 5, 7, 30])
def test_blocks_learn_every_token_but_the_first_once(num_tokens: int) -> None:
    document = EncodedSequence(np.arange(num_tokens, dtype=np.int32), np.arange(num_tokens) > 0)
    blocks = cut_into_blocks(document, 4)
    assert all(len(block.tokens) <= 4 for block in blocks)
    assert not any(block.has_loss[0] for block in blocks)
    learned = [int(t) for block in blocks for t in block.tokens[block.has_loss]]
    assert learned == list(range(1, num_tokens))
