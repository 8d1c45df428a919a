"""Guessing tokens that a step then checks, several at a time.

A text often repeats itself and its prompt: what followed the last few tokens when they were seen
before is a good guess at what follows now. So is what a smaller model says. The model computes
guesses beside the token that is due, and chooses each of the following tokens as it always does;
as long as its choice is the guess, the next choice counts too. Answers are the same with and
without, at any temperature, because a choice depends on nothing but its logits and its own random
number.

Sources: Leviathan et al. 2022, arXiv:2211.17192 (checking guesses in one step); Saxena 2023,
github.com/apoorvumang/prompt-lookup-decoding (guesses out of the prompt).
"""

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

__all__ = ["Drafter", "Pace", "PromptLookup", "Speculation"]

Speculation = Literal["none", "prompt_lookup", "draft_model"]

_RUN = 3  # tokens that must have been seen before


class Drafter(Protocol):
    """Guesses for several answers at once.

    Attributes:
        is_costly: Whether a guess that nobody checks is work for nothing.
    """

    is_costly: bool

    def guess(
        self, wanted: Mapping[str, tuple[Sequence[int], int]]
    ) -> Mapping[str, tuple[int, ...]]:
        """Guess how texts go on: token ids and how many to guess, by request."""
        ...

    def close(self) -> None:
        """Free what it holds."""
        ...


class Pace:
    """How many tokens of one answer are likely to be guessed right.

    Twice what held the last time, and none for a while after guesses that did not.

    >>> pace = Pace(most=4)
    >>> pace.learn(4, 1)
    >>> pace.next_length()
    2
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = most
        self._pause = 0

    def next_length(self) -> int:
        """How many to guess now."""
        if self._pause > 0:
            self._pause -= 1
            return 0
        return self._length

    def learn(self, num_guessed: int, num_held: int) -> None:
        """Note how many of the last guesses held."""
        if num_held == num_guessed:
            self._length = min(self._most, 2 * self._length)
            return
        self._length = max(1, min(self._most, 2 * num_held))
        if num_held == 0:
            self._pause = _RUN


class PromptLookup:
    """Guesses for answers out of themselves and their prompts; see `Drafter`.

    >>> lookup = PromptLookup()
    >>> lookup.guess({"a": ([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3], 4)})
    {'a': (4, 5, 6, 7)}
    >>> lookup.guess({"a": ([1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 9], 4)})
    {'a': ()}
    """

    is_costly = False

    def __init__(self) -> None:
        self._seen: dict[str, _SeenRuns] = {}

    def guess(
        self, wanted: Mapping[str, tuple[Sequence[int], int]]
    ) -> Mapping[str, tuple[int, ...]]:
        """Guess what follows; calls see longer and longer texts of one request.

        What was seen of a request is dropped by a call that does not name it.
        """
        self._seen = {name: self._seen.get(name) or _SeenRuns() for name in wanted}
        return {
            name: self._seen[name].guess(tokens, count) for name, (tokens, count) in wanted.items()
        }

    def close(self) -> None:
        """Drop what was seen."""
        self._seen.clear()


class _SeenRuns:
    """Where runs of one text were seen to end, the last time."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._num_seen = 0

    def guess(self, tokens: Sequence[int], count: int) -> tuple[int, ...]:
        last = len(tokens)
        for end in range(max(self._num_seen, _RUN), last):
            self._ends[tuple(tokens[end - _RUN : end])] = end
        self._num_seen = last
        seen = self._ends.get(tuple(tokens[last - _RUN :]))
        return () if seen is None else tuple(tokens[seen : seen + count])
