"""What the arithmetic decoders are taught: whole texts in fixed places, loss on the answer only."""

from random import Random
from typing import get_args

import pytest
import torch

from yearling.models.torch_decoder import NO_LABEL
from yearling.systems.arithmetic import Expressions, is_held_out, steps_of
from yearling.systems.arithmetic_base import (
    ALPHABET,
    BASE,
    LONGEST,
    Writing,
    expressions_of,
    question_of,
    rows_of_texts,
    text_of,
    value_of,
)

WRITINGS: tuple[Writing, ...] = get_args(Writing)


def written(codes: torch.Tensor) -> str:
    return "".join(ALPHABET[code] for code in codes.tolist())


def test_numbers_of_every_step_have_their_places() -> None:
    assert text_of("12-(5-40)", "steps") == " 2100 -(5000 - 0400)= 2100 --5300 = 7400\n"
    assert text_of("3-8*4", "steps") == " 3000 - 8000 * 4000 = 3000 - 2300 =-9200\n"
    assert text_of("12-(5-40)", "result") == " 2100 -(5000 - 0400)= 7400\n"


@pytest.mark.parametrize("writing", WRITINGS)
def test_a_text_ends_in_the_value_of_its_expression(writing: Writing) -> None:
    random = Random(0)
    for _ in range(300):
        expression = Expressions().draw(random, is_test=False)
        text = text_of(expression, writing)
        assert text.startswith(question_of(expression))
        assert value_of(text) == int(steps_of(expression)[-1]) == eval(expression)
        assert len(text) < LONGEST


@pytest.mark.parametrize("answer", [" 123", " 12345", "1234", " 1234=", "= 12 4", ""])
def test_what_is_no_number_has_no_value(answer: str) -> None:
    assert value_of(answer) is None


def test_rows_hold_whole_texts_and_label_what_is_to_be_found() -> None:
    texts = [text_of("1+2-3", "steps"), text_of("40*2", "steps")]
    rows = rows_of_texts(texts)
    assert rows.tokens.shape == rows.labels.shape == (2, len(texts[0]))
    for row, text in enumerate(texts):
        assert written(rows.tokens[row]).rstrip("\n") == "\n" + text.rstrip("\n")
        labelled = rows.labels[row] != NO_LABEL
        assert written(rows.labels[row][labelled]) == text[text.index("=") + 1 :]
        followed = labelled[:-1] & (rows.tokens[row][1:] != ALPHABET.index("\n"))
        assert torch.equal(rows.labels[row][:-1][followed], rows.tokens[row][1:][followed])


def test_no_step_trains_on_a_held_out_expression() -> None:
    drawn = [e for step in range(60) for e in expressions_of(BASE, step, "steps")]
    assert not any(is_held_out(expression) for expression in drawn)
    assert {len(steps_of(expression)) for expression in drawn} == {1, 2, 3, 4}


def test_both_ways_of_writing_are_taught_as_many_tokens() -> None:
    tokens = {}
    for writing in WRITINGS:
        drawn = [e for step in range(60) for e in expressions_of(BASE, step, writing)]
        tokens[writing] = sum(len(text_of(expression, writing)) for expression in drawn)
    assert tokens["result"] == pytest.approx(tokens["steps"], rel=0.05)
