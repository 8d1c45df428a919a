"""What longer contexts are taught and tested with: as long as asked, and nothing given away."""

import numpy as np
import pytest

from yearling.systems import longer_contexts
from yearling.systems.long_context_base import (
    KNOWN,
    TRAINED_TOKENS,
    VOCABULARY,
    base_operations,
    forward_operations,
    lesson,
)

TASKS: tuple[longer_contexts.Task, ...] = (
    "lines",
    "passkey",
    "first_sentence",
    "altered_numbers",
    "closed_book",
)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_fills_the_length_and_asks_something(task: longer_contexts.Task) -> None:
    sample = longer_contexts._sample(np.random.default_rng(0), task, 300)
    assert len(sample.tokens) == len(sample.is_answer) == 300
    assert sample.is_answer.any()


def test_a_closed_book_states_no_answer_and_memory_is_wrong() -> None:
    sample = longer_contexts._sample(np.random.default_rng(1), "closed_book", 300)
    answers = np.flatnonzero(sample.is_answer)
    assert set(sample.tokens[: answers[0]]) <= {VOCABULARY.begin, VOCABULARY.ask, *range(4, 52)}
    asked = sample.tokens[answers - 1] - VOCABULARY.keys.start
    assert (KNOWN[asked] != sample.tokens[answers]).all()


def test_texts_of_a_seed_are_its_own() -> None:
    one, other = (longer_contexts.held_out_texts(seed, 2, 64) for seed in (0, 1))
    assert all(len(text) == 65 for text in one)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], other[0])


def test_lessons_begin_with_repetitions_that_bear_loss_behind_the_first_time_alone() -> None:
    early = lesson(np.random.default_rng(3), 0.0, 64, 4)
    late = lesson(np.random.default_rng(3), 0.5, 64, 4)
    assert early.tokens.shape == late.tokens.shape == (4, 64)
    assert (early.labels[:, 0] < 0).all()
    assert (late.labels >= 0).sum() > (early.labels >= 0).sum()


def test_operations_count_attention_by_the_length() -> None:
    grown = forward_operations(2_049) - forward_operations(1_025)
    assert grown == pytest.approx(2 * 2 * 2 * 64 * 512)
    short = 2_400 * 2_048 * forward_operations(TRAINED_TOKENS)
    assert 0.8 * short < base_operations() < short
