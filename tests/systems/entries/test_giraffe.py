"""Giraffe's arms: what each does to the frequencies, and how far LLaMA 2's reach."""

import numpy as np
import pytest

from yearling.models.rotary import rotary_frequencies
from yearling.models.spec import Attention, Rotary
from yearling.systems.entries import giraffe
from yearling.systems.long_context_base import SIZES
from yearling.systems.tiny_bases import decoder_of
from yearling.training.context import ContextConfig, extend_context


def frequencies(method: str) -> np.ndarray:
    context = ContextConfig.model_validate({"tokens": giraffe._STRETCHED, "method": method})
    mixer = extend_context(decoder_of(SIZES, 0).spec, context).layers[0].mixer
    assert isinstance(mixer, Attention)
    assert isinstance(mixer.positions, Rotary)
    return rotary_frequencies(mixer.positions)[0]


def test_truncated_basis_keeps_what_turns_and_stops_what_does_not() -> None:
    plain = 4 * frequencies("linear")
    truncated = frequencies("truncated")
    turns = plain * giraffe._TUNED / (2 * np.pi)
    assert np.array_equal(truncated[turns >= 1], plain[turns >= 1].astype(truncated.dtype))
    assert (truncated[turns <= 1 / 8] == 0).all()
    assert 0 < (truncated == 0).sum() < len(truncated)


def test_llama_2_turns_less_than_once_in_32k_tokens() -> None:
    assert giraffe.longest_turn() == pytest.approx(16 * 4_096)
