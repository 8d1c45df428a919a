"""Where an answer ends: the token or the text at which serving would have stopped generating it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from yearling.models.tokenizer import Tokenizer

__all__ = ["Stop", "Stops"]


class Stop(NamedTuple):
    """The first stop in a row of tokens.

    Attributes:
        num_tokens: Tokens up to it, the last one of the stop included.
        num_bytes: Bytes of text before it.
    """

    num_tokens: int
    num_bytes: int


@dataclass(frozen=True)
class Stops:
    """What ends an answer.

    Attributes:
        tokenizer: Knows the bytes of tokens.
        ids: Tokens that end it.
        texts: Ordinary texts that end it.
    """

    tokenizer: Tokenizer
    ids: frozenset[int]
    texts: tuple[str, ...] = ()

    @property
    def final_id(self) -> int | None:
        """The token that ends what no template closes; None when there is none."""
        eos_id = self.tokenizer.eos_id
        if eos_id is not None and eos_id in self.ids:
            return eos_id
        return min(self.ids, default=None)

    def text_of(self, ids: Sequence[int]) -> bytes:
        """The bytes that tokens stand for."""
        return b"".join(self.tokenizer.token_bytes(token) for token in ids)

    def first(self, ids: Sequence[int]) -> Stop | None:
        """Find the first stop in tokens that serving might have generated."""
        place = next((index for index, token in enumerate(ids) if token in self.ids), None)
        found = None if place is None else Stop(place + 1, len(self.text_of(ids[:place])))
        if not self.texts:
            return found
        return self._first_text(ids if place is None else ids[:place]) or found

    def end_in_text(self, text: str) -> int | None:
        """Where in a text the first stop ends; None when it holds none."""
        ends = [text.find(stop) + len(stop) for stop in self.texts if stop in text]
        return min(ends, default=None)

    def _first_text(self, ids: Sequence[int]) -> Stop | None:
        pieces = [self.tokenizer.token_bytes(token) for token in ids]
        joined = b"".join(pieces)
        stops = [stop.encode() for stop in self.texts]
        found = [(start + len(stop), start) for stop in stops if (start := joined.find(stop)) >= 0]
        if not found:
            return None
        end, start = min(found)
        reached = accumulate(map(len, pieces))
        return Stop(next(i for i, size in enumerate(reached, 1) if size >= end), start)
