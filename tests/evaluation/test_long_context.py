"""The long-context bench: samples hold their answers, and scores tell finding from guessing."""

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from yearling.evaluation.long_context import (
    Sample,
    Vocabulary,
    accuracy,
    altered_numbers,
    document,
    first_sentence,
    lines,
    loss_by_position,
    passkey,
)

VOCABULARY = Vocabulary()
KNOWN = np.arange(VOCABULARY.values.start, VOCABULARY.values.stop)

TASKS: dict[str, Callable[[np.random.Generator, int], Sample]] = {
    "lines": lambda random, length: lines(
        random, length, VOCABULARY, num_lines=12, num_questions=4
    ),
    "passkey": lambda random, length: passkey(random, length, VOCABULARY),
    "first_sentence": lambda random, length: first_sentence(random, length, VOCABULARY),
    "altered_numbers": lambda random, length: altered_numbers(
        random, length, VOCABULARY, known=KNOWN, num_questions=4
    ),
}


def copier(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
    """Guess what followed the id's last earlier place, or after `opening` the document's start."""
    logits = np.zeros((len(tokens), VOCABULARY.size), np.float32)
    is_opened = False
    for place, token in enumerate(tokens):
        is_opened |= bool(token == VOCABULARY.opening)
        earlier = np.flatnonzero(tokens[:place] == token)
        if is_opened:
            opened = int(np.flatnonzero(tokens == VOCABULARY.opening)[0])
            logits[place, tokens[1 + place - opened]] = 1
        elif len(earlier):
            logits[place, tokens[earlier[0] + 1]] = 1
    return logits


@pytest.mark.parametrize("name", TASKS)
def test_sample_has_the_length_asked_for_and_follows_from_its_seed(name: str) -> None:
    first, again, other = (TASKS[name](np.random.default_rng(seed), 128) for seed in (0, 0, 1))
    assert len(first.tokens) == len(first.is_answer) == 128
    assert first.is_answer[-1]
    assert (first.tokens == again.tokens).all()
    assert (first.tokens != other.tokens).any()
    assert first.tokens.max() < VOCABULARY.size


@pytest.mark.parametrize("name", ["lines", "first_sentence", "altered_numbers"])
def test_who_copies_from_the_context_is_right_and_who_guesses_is_not(name: str) -> None:
    samples = [TASKS[name](np.random.default_rng(seed), 128) for seed in range(20)]
    assert accuracy(copier, samples) == 100.0
    blind = np.zeros(VOCABULARY.size, np.float32)
    assert accuracy(lambda ids: np.tile(blind, (len(ids), 1)), samples) == 0.0


def test_passkey_is_told_before_it_is_asked_for() -> None:
    sample = TASKS["passkey"](np.random.default_rng(3), 128)
    told, asked = np.flatnonzero(sample.tokens == VOCABULARY.secret)
    assert (sample.tokens[told + 1 : told + 4] == sample.tokens[asked + 1 : asked + 4]).all()
    assert sample.is_answer.nonzero()[0].tolist() == [125, 126, 127]


def test_memory_of_the_known_numbers_never_helps_with_altered_ones() -> None:
    def remembering(tokens: NDArray[np.int64]) -> NDArray[np.float32]:
        keys = np.clip(tokens - VOCABULARY.keys.start, 0, VOCABULARY.num_keys - 1)
        return np.eye(VOCABULARY.size, dtype=np.float32)[KNOWN[keys]]

    def draw(seed: int, *, is_open: bool) -> Sample:
        random = np.random.default_rng(seed)
        return altered_numbers(
            random, 64, VOCABULARY, known=KNOWN, num_questions=4, is_open=is_open
        )

    assert accuracy(remembering, [draw(seed, is_open=True) for seed in range(20)]) == 0.0
    closed = [draw(seed, is_open=False) for seed in range(20)]
    assert all((sample.tokens >= VOCABULARY.values.start).sum() == 4 for sample in closed)


def test_an_answer_is_wrong_when_one_of_its_ids_is() -> None:
    sample = Sample(np.array([1, 2, 3, 1, 2]), np.array([False, True, True, False, True]))
    guesses = np.eye(5, dtype=np.float32)[[2, 4, 1, 2, 0]]
    assert accuracy(lambda _: guesses, [sample]) == 50.0


def test_loss_by_position_is_that_of_its_part() -> None:
    sequence = np.array([0, 1, 1, 1, 1])
    logits = np.array([[0, 0], [0, 0], [0, 50], [0, 50], [0, 0]], np.float32)
    found = loss_by_position(lambda _: logits, [sequence], 2)
    assert found == pytest.approx([np.log(2), 0.0], abs=1e-9)


def test_document_keeps_to_few_successors() -> None:
    ids = document(np.random.default_rng(0), 2_000, VOCABULARY, num_successors=2)
    followers: dict[int, set[int]] = {}
    for before, after in itertools.pairwise(ids):
        followers.setdefault(int(before), set()).add(int(after))
    assert max(map(len, followers.values())) == 2


def test_lines_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"length=16 is too short for 12 lines and 4 questions"):
        TASKS["lines"](np.random.default_rng(0), 16)
    with pytest.raises(ValueError, match="num_questions=3 of num_lines=2"):
        lines(np.random.default_rng(0), 64, VOCABULARY, num_lines=2, num_questions=3)
