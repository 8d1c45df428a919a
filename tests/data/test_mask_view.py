"""The view of the mask: loss shows with colour and without, and no text drives the terminal."""

from collections.abc import Sequence

import numpy as np
import pytest

from tests.data.byte_tokenizer import byte_tokenizer
from yearling.data.encoded import EncodedRow, EncodedSequence
from yearling.data.mask_view import row_lines, sequence_text
from yearling.data.rows import RowId
from yearling.models.tokenizer import Tokenizer

_END = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return byte_tokenizer(tmp_path_factory.mktemp("tokenizer"), ["</s>"])


def _sequence(tokens: Sequence[int], num_prompt: int) -> EncodedSequence:
    return EncodedSequence(
        np.asarray(tokens, np.int32), np.arange(len(tokens)) >= num_prompt, num_prompt
    )


def test_brackets_stand_around_tokens_with_loss(tokenizer: Tokenizer) -> None:
    sequence = _sequence([*tokenizer.encode("ab\ncd"), _END], 3)
    assert sequence_text(sequence, tokenizer, has_colour=False) == "ab\n⟦c|d|</s>⟧"


def test_colour_parts_tokens_with_loss_from_others(tokenizer: Tokenizer) -> None:
    text = sequence_text(_sequence(tokenizer.encode("abc"), 1), tokenizer, has_colour=True)
    assert text == "\x1b[2ma\x1b[0m\x1b[92mb\x1b[0m\x1b[32mc\x1b[0m"


def test_character_of_several_tokens_shows_at_its_last(tokenizer: Tokenizer) -> None:
    sequence = _sequence(tokenizer.encode("a你"), 1)
    assert sequence_text(sequence, tokenizer, has_colour=False) == "a⟦||你⟧"
    cut = EncodedSequence(sequence.tokens[:3], sequence.has_loss[:3])
    assert sequence_text(cut, tokenizer, has_colour=False) == "a⟦|\ufffd⟧"


@pytest.mark.parametrize("has_colour", [False, True])
def test_text_cannot_drive_the_terminal(has_colour: bool, tokenizer: Tokenizer) -> None:
    sequence = _sequence(tokenizer.encode("\x1b[2J\r\u202eab"), 4)
    text = sequence_text(sequence, tokenizer, has_colour=has_colour)
    assert "\x1b[2J" not in text
    assert not {"\r", "\u202e"} & set(text)
    row = EncodedRow(RowId("a\x1b.jsonl", 1), (sequence,))
    plain = row_lines(row, tokenizer, has_mask=False, has_colour=False)
    assert "\x1b" not in "".join(plain)


def test_row_begins_with_its_place_and_counts(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("abcd")
    row = EncodedRow(RowId("a.jsonl", 3), (_sequence(ids, 1), _sequence(ids, 3)))
    lines = list(row_lines(row, tokenizer, has_mask=True, has_colour=False))
    assert lines[0] == "a.jsonl:3  8 tokens, 4 with loss"
    assert lines[1:3] == ["chosen: 4 tokens, 3 with loss", "a⟦b|c|d⟧"]
    assert lines[3:] == ["rejected: 4 tokens, 1 with loss", "abc⟦d⟧"]
    assert list(row_lines(row, tokenizer, has_mask=False, has_colour=False))[2] == "abcd"
