"""Beam search over a table of probabilities, against every answer there is."""

import itertools
import math
import random
from collections.abc import Collection, Sequence

import pytest

from yearling.core.errors import RequestError
from yearling.serving.beams import Beam, beam_search, run_search

VOCABULARY, END = 4, 3


def _logprobs(answer: Sequence[int]) -> list[float]:
    """A model: any distribution, decided by the answer so far."""
    dice = random.Random(repr(list(answer)))
    weights = [dice.random() ** 2 + 1e-3 for _ in range(VOCABULARY)]
    return [math.log(weight / sum(weights)) for weight in weights]


def _search(
    ends: Collection[int], *, width: int, max_tokens: int, length_penalty: float
) -> list[Beam]:
    def ask(answers: Sequence[tuple[int, ...]]) -> list[list[tuple[int, float]]]:
        return [
            sorted(enumerate(_logprobs(answer)), key=lambda pair: -pair[1])[: 2 * width]
            for answer in answers
        ]

    search = beam_search(ends, width=width, max_tokens=max_tokens, length_penalty=length_penalty)
    return run_search(search, ask)


def _everything(length: int) -> list[Beam]:
    """Every answer that ends, or is as long as it may be."""
    beams = []
    for size in range(1, length + 1):
        for tokens in itertools.product(range(VOCABULARY), repeat=size):
            is_ended = tokens[-1] == END
            if END in tokens[:-1] or (not is_ended and size < length):
                continue
            logprob = sum(_logprobs(tokens[:i])[token] for i, token in enumerate(tokens))
            beams.append(Beam(tokens, logprob, is_ended))
    return beams


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
def test_wide_search_finds_the_best_answer_of_all(length_penalty: float) -> None:
    """Ten beams lose nothing of three tokens out of three that go on."""
    best = max(_everything(3), key=lambda beam: beam.score(length_penalty))
    found = _search({END}, width=10, max_tokens=3, length_penalty=length_penalty)
    assert found[0].tokens == best.tokens
    assert found[0].logprob == pytest.approx(best.logprob)
    scores = [beam.score(length_penalty) for beam in found]
    assert scores == sorted(scores, reverse=True)


def test_one_beam_is_greedy() -> None:
    (found,) = _search(set(), width=1, max_tokens=6, length_penalty=1.0)
    tokens: list[int] = []
    for _ in range(6):
        tokens.append(max(range(VOCABULARY), key=_logprobs(tokens).__getitem__))
    assert found.tokens == tuple(tokens)
    assert found.logprob == pytest.approx(
        sum(_logprobs(tokens[:i])[token] for i, token in enumerate(tokens))
    )


def test_width_finds_what_greed_misses() -> None:
    narrow, wide = (
        _search({END}, width=width, max_tokens=5, length_penalty=0.0)[0] for width in (1, 10)
    )
    assert wide.logprob > narrow.logprob


def test_answer_has_a_token_at_least() -> None:
    with pytest.raises(RequestError, match="max_tokens=0 must be at least 1"):
        _search({END}, width=2, max_tokens=0, length_penalty=1.0)


@pytest.mark.parametrize("width", [0, 11])
def test_width_has_bounds(width: int) -> None:
    with pytest.raises(RequestError, match=f"width={width} must lie between 1 and 10"):
        _search({END}, width=width, max_tokens=3, length_penalty=1.0)
