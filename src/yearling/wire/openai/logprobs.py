"""Log-probabilities in OpenAI's two shapes: a list of objects (chat), four lists (legacy)."""

import codecs
from collections.abc import Callable, Sequence
from typing import Any

from yearling.serving.request import TokenLogprob

__all__ = ["LegacyLogprobs", "TokenBytes", "chat_logprobs"]

TokenBytes = Callable[[int], bytes]
"""The raw bytes a token id stands for."""

# JSON has no -inf; this is the value OpenAI sends for a token that cannot come.
_IMPOSSIBLE = -9999.0


def chat_logprobs(entries: Sequence[TokenLogprob], token_bytes: TokenBytes) -> dict[str, Any]:
    """The `logprobs` object of a chat choice or delta.

    >>> entry = TokenLogprob(token=7, logprob=-0.5)
    >>> chat_logprobs([entry], lambda token: b"Hi")["content"][0]["bytes"]
    [72, 105]
    """
    content = [
        _describe(entry.token, entry.logprob, token_bytes)
        | {"top_logprobs": [_describe(*pair, token_bytes) for pair in entry.top]}
        for entry in entries
    ]
    return {"content": content, "refusal": None}


def _describe(token: int, logprob: float, token_bytes: TokenBytes) -> dict[str, Any]:
    raw = token_bytes(token)
    return {
        "token": raw.decode("utf-8", "replace"),
        "logprob": max(logprob, _IMPOSSIBLE),
        "bytes": list(raw),
    }


class LegacyLogprobs:
    r"""Builds the `logprobs` object of a text completion, piece by piece.

    `text_offset` counts characters from the start of the prompt. A token that is not UTF-8 by
    itself is written `bytes:\xe4\xb8`, as OpenAI does, so that alternatives stay distinct.
    """

    def __init__(self, token_bytes: TokenBytes, *, first_offset: int, has_top: bool) -> None:
        self._token_bytes = token_bytes
        self._offset = first_offset
        self._has_top = has_top
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def piece(
        self, tokens: Sequence[int], entries: Sequence[TokenLogprob | None]
    ) -> dict[str, Any]:
        """The four lists for the next tokens; an entry of None has no log-probability."""
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._token_bytes(token)))
        return {
            "tokens": [self._name(token) for token in tokens],
            "token_logprobs": [e and max(e.logprob, _IMPOSSIBLE) for e in entries],
            "top_logprobs": [self._top(e) for e in entries] if self._has_top else None,
            "text_offset": offsets,
        }

    def _top(self, entry: TokenLogprob | None) -> dict[str, float] | None:
        if entry is None:
            return None
        named = {self._name(token): max(logprob, _IMPOSSIBLE) for token, logprob in entry.top}
        named.setdefault(self._name(entry.token), max(entry.logprob, _IMPOSSIBLE))
        return named

    def _name(self, token: int) -> str:
        raw = self._token_bytes(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
