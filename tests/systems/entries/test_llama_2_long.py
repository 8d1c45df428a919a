"""Llama 2 Long's measure: the power law along a document, and what from scratch is allowed."""

import numpy as np
import pytest

from yearling.models.torch_decoder import NO_LABEL
from yearling.systems.entries import llama_2_long

PLACES = np.arange(8, 1_024, 16.0)


@pytest.mark.parametrize("exponent", [0.3, 0.8])
def test_exponent_is_found_above_any_floor(exponent: float) -> None:
    losses = 4 * PLACES**-exponent + 1.5
    assert llama_2_long.power_law(PLACES, losses) == pytest.approx(exponent, abs=0.05)


def test_loss_that_rises_with_what_was_read_has_a_negative_exponent() -> None:
    assert llama_2_long.power_law(PLACES, 1 + PLACES / 1_024) < 0


def test_from_scratch_takes_half_as_many_operations_again() -> None:
    share = llama_2_long._continued_operations() / (
        llama_2_long._scratch_steps() * llama_2_long._step_operations()
    )
    assert 1 / share == pytest.approx(1.5, abs=0.01)


def test_long_samples_hold_some_documents_that_take_long_to_learn() -> None:
    random = np.random.default_rng(0)
    drawn = [llama_2_long._long_sample(random, 256) for _ in range(200)]
    plain = [sample for sample in drawn if not sample.is_answer.any()]
    assert 10 <= len(plain) <= 30
    assert all(len(sample.tokens) == 256 for sample in drawn)


def test_steps_are_long_then_first_sentences_then_short_twice() -> None:
    long, first, short, texts = (llama_2_long._rows(0, step) for step in range(4))
    assert long.tokens.shape == (2, 1_024)
    assert short.tokens.shape == texts.tokens.shape == (16, 128)
    num_sentences, length = first.tokens.shape
    assert 32 <= length <= 1_024
    assert int((first.labels != NO_LABEL).sum()) == 4 * num_sentences


def test_first_sentences_are_asked_for_at_many_lengths() -> None:
    lengths = [llama_2_long._rows(0, step).tokens.shape[1] for step in range(1, 160, 4)]
    assert min(lengths) < 64
    assert max(lengths) > 700
    assert len(set(lengths)) > 20
