"""Beam search: the likeliest answers as a whole, instead of the likeliest next token.

Source: Graves 2012, arXiv:1211.3711, section 2.4; length penalty as in Wu et al. 2016 (GNMT),
arXiv:1609.08144, in the form that transformers uses: log-probability over length to the power of
the penalty.
"""

import heapq
import math
from collections.abc import Callable, Collection, Generator, Sequence
from dataclasses import dataclass

from yearling.core.errors import RequestError
from yearling.serving.request import SamplingParams

__all__ = [
    "MOST_BEAMS",
    "Alternatives",
    "Beam",
    "alternatives_of",
    "beam_search",
    "no_beams",
    "run_search",
]

MOST_BEAMS = 10  # an engine tells at most twice as many alternatives of a token

Alternatives = Sequence[tuple[int, float]]
"""Token ids and their log-probabilities, likeliest first."""

Search = Generator[list[tuple[int, ...]], Sequence[Alternatives], "list[Beam]"]
"""Yields answers so far, is sent alternatives for the next token of each, and returns the best."""


@dataclass(frozen=True, slots=True)
class Beam:
    """An answer.

    Attributes:
        tokens: Its token ids; the one that ended it included.
        logprob: Sum of their log-probabilities, in nats.
        is_ended: Whether the model ended it, rather than the limit.
    """

    tokens: tuple[int, ...]
    logprob: float
    is_ended: bool = False

    @property
    def shown(self) -> tuple[int, ...]:
        """Its tokens without the one that ended it."""
        return self.tokens[:-1] if self.is_ended else self.tokens

    def score(self, length_penalty: float) -> float:
        """What answers of different lengths are compared by."""
        return self.logprob / math.pow(max(len(self.tokens), 1), length_penalty)


def beam_search(
    ends: Collection[int], *, width: int, max_tokens: int, length_penalty: float
) -> Search:
    """Find the best answers, best first.

    Args:
        ends: Token ids that end an answer.
        width: Answers kept at a time, and returned.
        max_tokens: Length of an answer at most.
        length_penalty: Above 0 longer answers are preferred, below 0 shorter ones.

    Yields:
        Answers so far; of each it is to be sent twice as many alternatives for the next token as
        the search is wide.

    Returns:
        As many answers as the search is wide.

    Raises:
        RequestError: the width or the length is out of range.
    """
    if not 1 <= width <= MOST_BEAMS:
        raise RequestError(f"width={width} must lie between 1 and {MOST_BEAMS}.", parameter="width")
    if max_tokens < 1:
        raise RequestError(f"max_tokens={max_tokens} must be at least 1.", parameter="max_tokens")
    live, ended = [Beam((), 0.0)], list[Beam]()
    for _ in range(max_tokens):
        # Twice the width: even if half of them end, enough go on.
        told = yield [beam.tokens for beam in live]
        candidates = [
            Beam((*beam.tokens, token), beam.logprob + logprob, token in ends)
            for beam, alternatives in zip(live, told, strict=True)
            for token, logprob in alternatives
        ]
        best = heapq.nlargest(2 * width, candidates, key=lambda beam: beam.logprob)
        # One that ends counts only among the best `width`: there it stands for itself.
        ended += [beam for beam in best[:width] if beam.is_ended]
        live = [beam for beam in best if not beam.is_ended][:width]
        ended = heapq.nlargest(width, ended, key=lambda beam: beam.score(length_penalty))
        if not live or (
            len(ended) == width and live[0].score(length_penalty) <= ended[-1].score(length_penalty)
        ):
            break
    found = [*ended, *live]
    return heapq.nlargest(width, found, key=lambda beam: beam.score(length_penalty))


def run_search(
    search: Search, ask: Callable[[list[tuple[int, ...]]], Sequence[Alternatives]]
) -> list[Beam]:
    """Answer a search's questions until it returns."""
    try:
        answers = next(search)
        while True:
            answers = search.send(ask(answers))
    except StopIteration as end:
        found: list[Beam] = end.value
        return found


def no_beams(model: str) -> str:
    """Why a model that reads prompts otherwise than answers cannot be searched."""
    return (
        f"{model} reads a prompt's tokens otherwise than an answer's, and a beam search gives it "
        "answers as prompts: draw several answers instead."
    )


def alternatives_of(width: int) -> SamplingParams:
    """How a search of this width asks for the next token; the engine tells likelier ones first."""
    return SamplingParams(max_tokens=1, temperature=0, logprobs=2 * width, ignore_eos=True)
