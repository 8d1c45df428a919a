"""Special-token text that came from outside, kept apart from the tokens a template writes."""

import re
import secrets
from collections.abc import Mapping
from typing import Any

__all__ = ["Marks", "SpecialText"]


class SpecialText:
    """How to find the text of special tokens, whole or in part."""

    def __init__(self, special_tokens: Mapping[str, int]) -> None:
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self.ids = special_tokens
        self.pattern = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._heads = {text[:cut] for text in special_tokens for cut in range(1, len(text))}
        self._tails = {text[cut:] for text in special_tokens for cut in range(1, len(text))}
        self._joined = "\0".join(special_tokens)
        self._reach = max(map(len, special_tokens), default=0)

    def opens_at_end(self, text: str) -> bool:
        """Whether a text ends with the beginning of a special token."""
        return any(text[-cut:] in self._heads for cut in self._cuts(text))

    def closes_at_start(self, text: str) -> bool:
        """Whether a text begins with the end of a special token."""
        return any(text[:cut] in self._tails for cut in self._cuts(text))

    def is_within(self, text: str) -> bool:
        """Whether a text is a part of a special token."""
        return text in self._joined

    def _cuts(self, text: str) -> range:
        return range(1, min(self._reach, len(text) + 1))


class Marks:
    """Marks that stand for special-token text from outside while a template runs.

    A mark is a row of digits that nobody can guess: trimming, changing case and writing as
    JSON leave it alone. Where a text begins or ends with a part of a special token, or is one,
    an empty mark keeps it from becoming a whole one together with its neighbours.
    """

    def __init__(self, special: SpecialText) -> None:
        self.literals: list[str] = []
        self._special = special
        self._nonce = "".join(secrets.choice("123456789") for _ in range(24))

    def protect_message(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Give a copy of a message with marks in all its texts.

        The role stays: it is from our own closed list, and templates make tokens such as
        `<|user|>` of it.
        """
        result = {}
        for field, value in message.items():
            if isinstance(value, str) and field != "role":
                result[field] = self._protect_text(value, is_free=True)
            else:
                result[field] = value if field == "role" else self.protect(value)
        return result

    def protect(self, value: Any) -> Any:
        """Give a copy of a JSON value with marks in all its strings."""
        if isinstance(value, str):
            return self._protect_text(value)
        if isinstance(value, Mapping):
            return {self._replace(key): self.protect(entry) for key, entry in value.items()}
        if isinstance(value, list | tuple):
            return [self.protect(entry) for entry in value]
        return value

    def parts(self, prompt: str) -> list[str | int]:
        """Cut a prompt into text and ids of the control tokens that the template wrote."""
        parts: list[str | int] = []
        for position, piece in enumerate(re.split(self._nonce + r"(\d{8})", prompt)):
            if position % 2:
                parts.append(self.literals[int(piece)])
                continue
            start = 0
            for found in self._special.pattern.finditer(piece):
                parts += [piece[start : found.start()], self._special.ids[found[0]]]
                start = found.end()
            parts.append(piece[start:])
        return parts

    def _protect_text(self, text: str, *, is_free: bool = False) -> str:
        """Mark special tokens and open edges.

        With `is_free`, also words that are a mere part of a special token; elsewhere they may
        be a word that the template compares with, such as the type of a tool.
        """
        is_part = is_free and text != "" and self._special.is_within(text)
        start = self._mark("") if is_part or self._special.closes_at_start(text) else ""
        end = self._mark("") if is_part or self._special.opens_at_end(text) else ""
        return f"{start}{self._replace(text)}{end}"

    def _replace(self, text: str) -> str:
        return self._special.pattern.sub(lambda found: self._mark(found[0]), text)

    def _mark(self, literal: str) -> str:
        self.literals.append(literal)
        return f"{self._nonce}{len(self.literals) - 1:08d}"
