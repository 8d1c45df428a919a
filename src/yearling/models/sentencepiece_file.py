"""SentencePiece's `tokenizer.model`: a protocol buffer, of which a tokenizer needs three parts.

The wire format is a row of fields: a varint that holds number and kind, then a varint, four or
eight bytes, or a length and as many bytes. Every length is checked against what is there
before anything is taken. Fields that a tokenizer has no use for are passed over, as the format
wants it.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.source import SourceFile
from yearling.models.vocabulary import MAX_TOKENS, TokenKind

__all__ = ["SentencePieceModel", "read_sentencepiece"]

_MAX_FILE_BYTES = 1 << 25  # the largest published files have 5 MB
_MAX_VARINT_BYTES = 10
_MAX_FIELDS = 1 << 12  # beside pieces; each costs far more time than its two bytes
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_MODEL_TYPES: Mapping[int, Literal["unigram", "bpe"]] = {1: "unigram", 2: "bpe"}
_KIND_OF_NUMBER = {int(kind): kind for kind in TokenKind}

Field = tuple[int, int | bytes]


@dataclass(frozen=True, slots=True)
class SentencePieceModel:
    """What the file says.

    Attributes:
        pieces: Spelling of each id, a space as U+2581.
        scores: Log-likelihood of each id; BPE joins the highest first.
        kinds: Kind of each id.
        model_type: How text is cut into pieces.
        has_byte_fallback: Whether a character without a piece becomes its bytes.
        bos_id: Beginning-of-sequence piece, or None.
        eos_id: End-of-sequence piece, or None.
        character_map: SentencePiece's compiled table of replacements; may be empty.
        adds_space_prefix: Whether a space is put before a text.
        is_space_squeezed: Whether spaces around a text go, and several become one.
    """

    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[TokenKind, ...]
    model_type: Literal["unigram", "bpe"]
    has_byte_fallback: bool
    bos_id: int | None
    eos_id: int | None
    character_map: bytes
    adds_space_prefix: bool
    is_space_squeezed: bool


def read_sentencepiece(path: Path) -> SentencePieceModel:
    """Read a file.

    Raises:
        ModelNotFoundError: nothing is there.
        ModelFormatError: it is malformed, or of a form this build does not read.
    """
    source = SourceFile(path)
    try:
        if source.size > _MAX_FILE_BYTES:
            raise ModelFormatError(f"{path}: has {source.size} bytes, above {_MAX_FILE_BYTES}.")
        data = source.read(0, source.size, "the file").tobytes()
    finally:
        source.close()
    return _Reader(path).model(data)


class _Reader:
    """Reads one file; holds its path for messages."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def model(self, data: bytes) -> SentencePieceModel:
        pieces: list[tuple[str, float, TokenKind]] = []
        trainer, normalizer = b"", b""
        for number, value in self._fields(data, MAX_TOKENS + _MAX_FIELDS):
            if number == 1:
                if len(pieces) == MAX_TOKENS:
                    raise self._error(f"more than {MAX_TOKENS} pieces")
                pieces.append(self._piece(self._bytes(value, "a piece"), len(pieces)))
            elif number == 2:
                trainer += self._bytes(value, "trainer_spec")
            elif number == 3:
                normalizer += self._bytes(value, "normalizer_spec")
        if not pieces:
            raise self._error("no pieces, so it is no SentencePiece model")
        spellings, scores, kinds = zip(*pieces, strict=True)
        if len(set(spellings)) < len(spellings):
            raise self._error("two pieces with one spelling")
        trained = dict(self._fields(trainer))  # of a repeated field the last counts
        normal = dict(self._fields(normalizer))
        model_type = _MODEL_TYPES.get(self._integer(trained, 3, 1))
        if model_type is None:
            raise self._error(f"model type {trained[3]!r}; 1 (unigram) and 2 (BPE) are read")
        if self._integer(trained, 24, 0):
            raise self._error("treat_whitespace_as_suffix, which is not read")
        if not self._integer(normal, 5, 1):
            raise self._error("escape_whitespaces off, which is not read")
        return SentencePieceModel(
            spellings,
            scores,
            kinds,
            model_type,
            has_byte_fallback=self._integer(trained, 35, 0) != 0,
            bos_id=self._token_id(trained, 41, 1, len(pieces)),
            eos_id=self._token_id(trained, 42, 2, len(pieces)),
            character_map=self._bytes(normal.get(2, b""), "precompiled_charsmap"),
            adds_space_prefix=self._integer(normal, 3, 1) != 0,
            is_space_squeezed=self._integer(normal, 4, 1) != 0,
        )

    def _piece(self, data: bytes, token_id: int) -> tuple[str, float, TokenKind]:
        fields = dict(self._fields(data))
        score = fields.get(2, b"\0\0\0\0")
        if not isinstance(score, bytes) or len(score) != 4:
            raise self._error(f"a score of piece {token_id} that is no float")
        (value,) = struct.unpack("<f", score)
        if not math.isfinite(value):
            raise self._error(f"score {value} of piece {token_id}")
        try:
            spelling = self._bytes(fields.get(1, b""), "a spelling").decode()
            kind = _KIND_OF_NUMBER[self._integer(fields, 3, 1)]
        except UnicodeDecodeError as error:
            raise self._error(f"a spelling of piece {token_id} that is not UTF-8") from error
        except KeyError as error:
            raise self._error(f"piece {token_id} of kind {error}") from error
        return spelling, value, kind

    def _fields(self, data: bytes, limit: int = _MAX_FIELDS) -> Iterator[Field]:
        """Numbers and values: varints as integers, all else as bytes."""
        position = num_fields = 0
        while position < len(data):
            num_fields += 1
            if num_fields > limit:
                raise self._error(f"more than {limit} fields in one message")
            key, position = self._varint(data, position)
            number, kind = key >> 3, key & 7
            if kind == _VARINT:
                value, position = self._varint(data, position)
                yield number, value
                continue
            if kind == _BYTES:
                length, position = self._varint(data, position)
            elif kind in (_FOUR_BYTES, _EIGHT_BYTES):
                length = 4 if kind == _FOUR_BYTES else 8
            else:
                raise self._error(f"a field of wire type {kind} at byte {position}")
            if length > len(data) - position:
                raise self._error(
                    f"a field of {length} bytes where {len(data) - position} are left"
                )
            yield number, data[position : position + length]
            position += length

    def _varint(self, data: bytes, position: int) -> tuple[int, int]:
        if position < len(data) and (first := data[position]) < 0x80:
            return first, position + 1  # nearly all are that short
        value = 0
        for index in range(_MAX_VARINT_BYTES):
            if position + index >= len(data):
                raise self._error("a number that is cut at the end")
            byte = data[position + index]
            value |= (byte & 0x7F) << (7 * index)
            if byte < 0x80:
                return value, position + index + 1
        raise self._error(f"a number of more than {_MAX_VARINT_BYTES} bytes")

    def _bytes(self, value: int | bytes, what: str) -> bytes:
        if not isinstance(value, bytes):
            raise self._error(f"{what} that is a number")
        return value

    def _integer(self, fields: Mapping[int, int | bytes], number: int, default: int) -> int:
        value = fields.get(number, default)
        if not isinstance(value, int):
            raise self._error(f"field {number} that is no number")
        return value

    def _token_id(
        self, fields: Mapping[int, int | bytes], number: int, default: int, num_pieces: int
    ) -> int | None:
        """An id, where -1 (as a 64-bit two's complement) means that there is none."""
        value = self._integer(fields, number, default)
        if value >= 1 << 31:
            return None
        if value >= num_pieces:
            raise self._error(f"id {value} of a special piece, but {num_pieces} pieces")
        return value

    def _error(self, found: str) -> ModelFormatError:
        return ModelFormatError(f"{self._path}: has {found}; the file is damaged or not supported.")
