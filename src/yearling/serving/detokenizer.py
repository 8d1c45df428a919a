"""From token ids to text, one token at a time, without ever taking anything back."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Protocol

__all__ = ["Detokenizer", "Pieces", "TokenText", "text_of"]

_Utf8Decoder = getincrementaldecoder("utf-8")


class TokenText(Protocol):
    """What a detokenizer needs of a tokenizer."""

    def token_bytes(self, token: int, /) -> bytes:
        """UTF-8 bytes of a token, possibly a part of a character."""
        ...

    def is_special(self, token: int, /) -> bool:
        """Whether the token is a control token, which is not shown."""
        ...


class Pieces(dict[int, bytes]):
    """Shown bytes of each token id, remembered once asked for; special tokens show nothing."""

    def __init__(self, tokenizer: TokenText) -> None:
        super().__init__()
        self._tokenizer = tokenizer

    def __missing__(self, token: int) -> bytes:
        """Ask the tokenizer once per id."""
        is_hidden = self._tokenizer.is_special(token)
        piece = b"" if is_hidden else self._tokenizer.token_bytes(token)
        self[token] = piece
        return piece


def text_of(pieces: Pieces, tokens: Sequence[int]) -> str:
    """Text of a whole answer."""
    detokenizer = Detokenizer(pieces)
    return "".join(map(detokenizer.push, tokens)) + detokenizer.finish()


class Detokenizer:
    """Text of one answer: whole characters only, and never the beginning of a stop string.

    A character cut between tokens is held back until it is complete; bytes that can never
    become a character turn into U+FFFD. Where a stop string ends first, the text ends before
    it, whatever way the tokens cut it.

    Attributes:
        is_stopped: Whether a stop string was found; nothing is shown after it.
    """

    def __init__(self, pieces: Pieces, stop: Sequence[str] = ()) -> None:
        self.is_stopped = False
        self._pieces = pieces
        self._stop = tuple(stop)
        self._first_letters = frozenset(text[0] for text in self._stop)
        self._longest = max(map(len, self._stop), default=0)
        self._decoder = _Utf8Decoder(errors="replace")
        self._held = ""

    def push(self, token: int) -> str:
        """Take a token; return the text that became certain, often empty."""
        return self._show(self._decoder.decode(self._pieces[token]))

    def finish(self) -> str:
        """Return what was held back, when the answer ends without a stop string."""
        text = self._show(self._decoder.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _show(self, text: str) -> str:
        if self.is_stopped:
            return ""
        if not self._stop or not text:
            return text
        text = self._held + text
        end = self._find_stop(text)
        if end is not None:
            self.is_stopped, self._held = True, ""
            return text[:end]
        split = self._certain_length(text)
        self._held = text[split:]
        return text[:split]

    def _find_stop(self, text: str) -> int | None:
        """Where the shown text ends: before the stop string that is complete first."""
        found = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stop if stop in text]
        if not found:
            return None
        end, negative_length = min(found)
        return end + negative_length

    def _certain_length(self, text: str) -> int:
        """Length of the text that no stop string can reach back into."""
        for start in range(max(0, len(text) - self._longest + 1), len(text)):
            if text[start] in self._first_letters:
                tail = text[start:]
                if any(stop.startswith(tail) for stop in self._stop):
                    return start
        return len(text)
