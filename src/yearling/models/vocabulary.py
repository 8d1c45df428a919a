"""The tokens of a tokenizer: their spelling, their kind, and the bytes each stands for.

Three spellings exist. A *byte-level* vocabulary writes every byte as one printable character
(GPT-2's table), so each token is an exact byte string. A *SentencePiece* vocabulary writes
characters, a space as U+2581, and bytes outside its characters as tokens named `<0x0A>`. A
*WordPiece* vocabulary writes the characters of a word's beginning as they are, and puts `##`
before what goes on within a word.
"""

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import Literal

from yearling.core.errors import ModelFormatError

__all__ = [
    "MAX_MERGES",
    "MAX_TOKENS",
    "MAX_TOKEN_CHARACTERS",
    "TokenKind",
    "Vocabulary",
    "byte_level_spelling",
    "library_errors",
]

MAX_TOKENS = 1 << 20  # the largest published vocabularies have 262,144
MAX_MERGES = 1 << 21
MAX_TOKEN_CHARACTERS = 1024
_CLOSING_MARKS = frozenset(".,?!")
_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenKind(IntEnum):
    """What a token is for; the numbers are GGUF's."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All tokens by id.

    Attributes:
        pieces: Spelling of each id; None where an id is not given to any token.
        kinds: Kind of each id.
        spelling: How normal pieces are written.
        adds_space_prefix: Whether bytes begin with a space that the text does not have:
            SentencePiece puts one there, and a WordPiece is written with the space before it.
    """

    pieces: tuple[str | None, ...]
    kinds: tuple[TokenKind, ...]
    spelling: Literal["byte_level", "sentencepiece", "wordpiece"]
    adds_space_prefix: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.pieces) <= MAX_TOKENS:
            raise ModelFormatError(
                f"tokenizer has {len(self.pieces)} tokens; between 1 and {MAX_TOKENS} are read."
            )
        if len(self.kinds) != len(self.pieces):
            raise ModelFormatError(
                f"tokenizer has {len(self.pieces)} tokens but {len(self.kinds)} token types; "
                "the file is damaged."
            )
        self._check_pieces()

    def _check_pieces(self) -> None:
        given = [piece for piece in self.pieces if piece is not None]
        for piece in (min(given, key=len, default=""), max(given, key=len, default="")):
            if not 0 < len(piece) <= MAX_TOKEN_CHARACTERS:
                raise ModelFormatError(
                    f"token {piece[:80]!r} has {len(piece)} characters; "
                    f"between 1 and {MAX_TOKEN_CHARACTERS} are read."
                )
        if len(set(given)) != len(given):
            ((twice, _),) = Counter(given).most_common(1)
            first = self.pieces.index(twice)
            raise ModelFormatError(
                f"tokens {first} and {self.pieces.index(twice, first + 1)} are both spelled "
                f"{twice[:80]!r}; a vocabulary spells every token once."
            )

    @property
    def special(self) -> dict[str, int]:
        """Control and unknown tokens by spelling."""
        return self._of(TokenKind.CONTROL, TokenKind.UNKNOWN)

    @property
    def user_defined(self) -> dict[str, int]:
        """Tokens that text is searched for before it is split, and that are no control tokens."""
        return self._of(TokenKind.USER_DEFINED)

    def _of(self, *kinds: TokenKind) -> dict[str, int]:
        return {
            piece: token_id
            for token_id, kind in enumerate(self.kinds)
            if kind in kinds and (piece := self.pieces[token_id]) is not None
        }

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; empty for ids that no token has."""
        piece = self.pieces[token_id] if token_id < len(self.pieces) else None
        if piece is None:
            return b""
        kind = self.kinds[token_id]
        if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED):
            return piece.encode()
        if self.spelling == "byte_level":
            return _byte_level_bytes(piece)
        if self.spelling == "wordpiece":
            return _word_piece_bytes(piece)
        if match := _BYTE_TOKEN.fullmatch(piece):
            return bytes([int(match[1], 16)])
        return piece.replace("\u2581", " ").encode()


def _word_piece_bytes(piece: str) -> bytes:
    """A word with the space before it, which the closing marks of a sentence do without."""
    if piece.startswith("##"):
        return piece[2:].encode()
    return (piece if piece in _CLOSING_MARKS else f" {piece}").encode()


def _byte_level_bytes(piece: str) -> bytes:
    table = _byte_of_character()
    try:
        return bytes(table[character] for character in piece)
    except KeyError:  # padding rows such as "[PAD151936]" are not in the byte alphabet
        return piece.encode()


def byte_level_spelling(token: bytes) -> str:
    """Write bytes as a byte-level vocabulary does.

    >>> byte_level_spelling(b" the")
    '\u0120the'
    """
    characters = _character_of_byte()
    return "".join(characters[byte] for byte in token)


@cache
def _character_of_byte() -> dict[int, str]:
    return {byte: character for character, byte in _byte_of_character().items()}


@cache
def _byte_of_character() -> dict[str, int]:
    """GPT-2's table: printable Latin-1 stands for itself, the other bytes for U+0100 upwards."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + index): byte for index, byte in enumerate(others)})
    return table


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Turn whatever the tokenizers library raises into a ModelFormatError.

    Its panics derive from BaseException alone, so catching Exception would let them through.
    """
    try:
        yield
    except (ModelFormatError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise ModelFormatError(f"{what}: {str(error)[:300] or type(error).__name__}.") from error
