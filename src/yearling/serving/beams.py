"""Beam search: the likeliest answers as a whole, instead of the likeliest next token.

Source: Graves 2012, arXiv:1211.3711, section 2.4; length penalty as in Wu et al. 2016 (GNMT),
arXiv:1609.08144, in the form that transformers uses: log-probability over length to the power of
the penalty.
"""

import heapq
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from yearling.core.errors import RequestError

__all__ = ["MOST_BEAMS", "Alternatives", "Beam", "beam_search"]

MOST_BEAMS = 10  # an engine tells at most twice as many alternatives of a token

Alternatives = Sequence[tuple[int, float]]
"""Token ids and their log-probabilities, likeliest first."""


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

    def score(self, length_penalty: float) -> float:
        """What answers of different lengths are compared by."""
        return self.logprob / math.pow(max(len(self.tokens), 1), length_penalty)


def beam_search(
    ask: Callable[[Sequence[tuple[int, ...]], int], Sequence[Alternatives]],
    ends: Collection[int],
    *,
    width: int,
    max_tokens: int,
    length_penalty: float,
) -> list[Beam]:
    """Find the best answers, best first.

    Args:
        ask: Given answers so far and a number, tells as many alternatives for the next token of
            each.
        ends: Token ids that end an answer.
        width: Answers kept at a time, and returned.
        max_tokens: Length of an answer at most.
        length_penalty: Above 0 longer answers are preferred, below 0 shorter ones.

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
        told = ask([beam.tokens for beam in live], 2 * width)
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
