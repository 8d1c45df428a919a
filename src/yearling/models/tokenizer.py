"""Text to token ids and back, so that a user's text can never become a control token."""

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError, RequestError, UnsupportedError
from yearling.models import (
    tokenizer_byte_level,
    tokenizer_gguf,
    tokenizer_json,
    tokenizer_sentencepiece,
)
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import TokenKind, library_errors

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer"]

_MAX_CONFIG_BYTES = 1 << 24
_FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "qwen.tiktoken")


class Tokenizer:
    """A tokenizer with its special tokens; made by `from_gguf` or `from_file`.

    Two backends share one vocabulary. One finds special tokens in text. The other finds only
    *aliases* of them: random strings that stand for special tokens and that nobody outside can
    guess, so text and control tokens can be encoded in one pass without mixing them up.

    Attributes:
        vocabulary_size: Number of ids; the embedding of a model may be padded beyond it.
        bos_id: Beginning-of-sequence token, or None.
        eos_id: End-of-sequence token, or None.
        adds_bos: Whether a bare prompt starts with `bos_id`; chat templates write their own.
        prefix_ids: Special tokens the model was trained to see before a text: BOS, [CLS].
        suffix_ids: Special tokens it was trained to see after a text: [SEP], T5's `</s>`.
        adds_space_prefix: Whether text gets a space in front (SentencePiece); `decode` takes
            it away again, `token_bytes` shows it.
        special_tokens: Ids of control tokens by their text.
    """

    def __init__(self, parts: TokenizerParts) -> None:
        vocabulary = parts.vocabulary
        self.vocabulary_size = len(vocabulary.pieces)
        self.bos_id = parts.bos_id
        self.eos_id = parts.eos_id
        self.prefix_ids = parts.prefix_ids
        self.suffix_ids = parts.suffix_ids
        self.adds_bos = self.bos_id is not None and self.prefix_ids[:1] == (self.bos_id,)
        self.adds_space_prefix = vocabulary.adds_space_prefix
        self.special_tokens: Mapping[str, int] = vocabulary.special
        self._special_ids = frozenset(self.special_tokens.values())
        self._vocabulary = vocabulary
        self._secret = parts.secret
        self._parts = parts
        nonce = secrets.token_hex(16)
        self._aliases = {
            token_id: f"\ue000{nonce}-{token_id}\ue001" for token_id in self._special_ids
        }
        self._parsing, self._parsed_ids = self._with_added(parts, None)
        self._plain, self._plain_ids = self._with_added(parts, self._aliases)

    @classmethod
    def from_gguf(cls, metadata: Mapping[str, Any]) -> "Tokenizer":
        """Build the tokenizer that a GGUF file describes.

        Args:
            metadata: The file's key-value pairs; only `tokenizer.ggml.*` is read.

        Raises:
            ModelFormatError: an entry is missing, malformed or of a form that is not read.
        """
        return cls(tokenizer_gguf.tokenizer_parts(metadata))

    @classmethod
    def from_file(cls, path: Path, config: Mapping[str, Any] | None = None) -> "Tokenizer":
        """Build the tokenizer of a file.

        Args:
            path: `tokenizer.json`; or `vocab.json` with `merges.txt` beside it, a SentencePiece
                model (`tokenizer.model`), or a list of ranks (`qwen.tiktoken`).
            config: Content of `tokenizer_config.json`; None reads it from beside the file.

        Raises:
            ModelFormatError: a file is malformed, or of a form that is not read.
        """
        path = Path(path)
        if config is None:
            beside = path.with_name("tokenizer_config.json")
            found = beside.is_file()
            config = read_json_object(beside, _MAX_CONFIG_BYTES) if found else {}
        if path.suffix == ".model":
            return cls(tokenizer_sentencepiece.tokenizer_parts(path, config))
        if path.suffix == ".tiktoken":
            return cls(tokenizer_byte_level.ranks_parts(path, config))
        if path.name == "vocab.json":
            return cls(tokenizer_byte_level.merges_parts(path, config))
        return cls(tokenizer_json.tokenizer_parts(path, config))

    @staticmethod
    def find_file(folder: Path) -> Path | None:
        """The file of a model folder that `from_file` reads, or None when there is none."""
        if (folder / "vocab.json").exists() and not (folder / "merges.txt").exists():
            names = [name for name in _FILES if name != "vocab.json"]
        else:
            names = [*_FILES]
        return next((folder / name for name in names if (folder / name).exists()), None)

    def with_special_tokens(self, texts: Iterable[str]) -> "Tokenizer":
        """The same tokenizer, in which these tokens of its vocabulary are control tokens.

        Some files list what heads a turn among the tokens of text (Baichuan's
        `<reserved_106>`), where a user could write it.

        Raises:
            ModelFormatError: there is no such token, or ordinary text still becomes it.
        """
        added = {text: self._id_of(text) for text in texts if text not in self.special_tokens}
        if not added:
            return self
        vocabulary, ids = self._vocabulary, set(added.values())
        kinds = [TokenKind.CONTROL if i in ids else k for i, k in enumerate(vocabulary.kinds)]
        parts = replace(self._parts, vocabulary=replace(vocabulary, kinds=tuple(kinds)))
        tokenizer = Tokenizer(parts)
        for text, token_id in added.items():
            if token_id in tokenizer.encode(text):
                raise ModelFormatError(
                    f"its tokenizer makes token {text!r} of ordinary text: users could write it."
                )
        return tokenizer

    def _id_of(self, text: str) -> int:
        if text not in self._vocabulary.pieces:
            raise ModelFormatError(f"its tokenizer has no token {text!r}.")
        return self._vocabulary.pieces.index(text)

    def encode(
        self,
        text: str,
        *,
        parse_special: bool = False,
        add_bos: bool = False,
        add_special: bool = False,
    ) -> list[int]:
        """Turn text into token ids.

        A byte-level vocabulary that lacks a byte leaves it out, as its publisher's tokenizer
        does; SmolLM2's lacks six control characters.

        Args:
            text: Any Unicode text.
            parse_special: Whether the text of a special token becomes that token. Never for
                text from outside: it could end its own turn and speak as the system.
            add_bos: Whether to put `bos_id` in front.
            add_special: Whether to put `prefix_ids` and `suffix_ids` around it, instead.

        Raises:
            RequestError: the text holds a lone surrogate, which no UTF-8 can carry.
            UnsupportedError: `add_bos` with a tokenizer that has no such token.
        """
        if parse_special:
            ids = self._run(self._parsing, self._parsed_ids, text)
        else:
            ids = self._run(self._plain, self._plain_ids, text)
        return self.wrap(ids) if add_special else self._start(add_bos=add_bos) + ids

    def wrap(self, ids: Iterable[int]) -> list[int]:
        """Put `prefix_ids` and `suffix_ids` around ids: a text, perhaps cut to a length."""
        return [*self.prefix_ids, *ids, *self.suffix_ids]

    def encode_parts(self, parts: Iterable[str | int]) -> list[int]:
        """Encode text that control tokens cut, as if the whole had been read at once.

        Args:
            parts: A string is text, in which special tokens are never found; an integer is
                the id of a special token.

        Raises:
            RequestError: an integer is not the id of a special token, or a lone surrogate.
        """
        pieces = []
        for part in parts:
            if isinstance(part, int):
                if part not in self._aliases:
                    raise RequestError(f"token id {part} is not a special token.")
                pieces.append(self._aliases[part])
            else:
                pieces.append(part)
        return self._run(self._plain, self._plain_ids, "".join(pieces))

    def decode(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Turn token ids into text; bytes that are not UTF-8 become U+FFFD.

        Raises:
            RequestError: an id is negative.
        """
        raw = b"".join(
            self.token_bytes(token_id)
            for token_id in ids
            if not (skip_special and token_id in self._special_ids)
        )
        text = raw.decode("utf-8", errors="replace")
        return text[1:] if self.adds_space_prefix and text.startswith(" ") else text

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; a special token gives its text.

        Ids from `vocabulary_size` upwards are rows that pad an embedding: they have no bytes.

        Raises:
            RequestError: the id is negative.
        """
        if token_id < 0:
            raise RequestError(f"token id {token_id} is negative.")
        return self._vocabulary.token_bytes(token_id)

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a control token, which never shows in an answer."""
        return token_id in self._special_ids

    @cached_property
    def content_hash(self) -> str:
        """SHA-256, as 64 hex digits, of everything that decides how text is encoded."""
        vocabulary = self._vocabulary
        backend = self._parsing.to_str()
        digest = sha256((backend.replace(self._secret, "") if self._secret else backend).encode())
        digest.update(repr((vocabulary.pieces, vocabulary.kinds, vocabulary.spelling)).encode())
        digest.update(repr((self.bos_id, self.eos_id, self.prefix_ids, self.suffix_ids)).encode())
        return digest.hexdigest()

    def _start(self, *, add_bos: bool) -> list[int]:
        if not add_bos:
            return []
        if self.bos_id is None:
            raise UnsupportedError("this tokenizer has no BOS token to put before a text.")
        return [self.bos_id]

    def _run(
        self, backend: "tokenizers.Tokenizer", own_ids: Mapping[int, int], text: str
    ) -> list[int]:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"text holds the lone surrogate U+{ord(text[error.start]):04X} at character "
                f"{error.start}; it is half of a character and cannot be encoded."
            ) from error
        with library_errors("the tokenizer failed on a text"):
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        return [own_ids.get(token_id, token_id) for token_id in ids] if own_ids else ids

    def _with_added(
        self,
        parts: TokenizerParts,
        aliases: Mapping[int, str] | None,
    ) -> tuple["tokenizers.Tokenizer", dict[int, int]]:
        """Add special tokens, under their own text or an alias, to a copy of a backend.

        Returns:
            The copy, which shares the vocabulary, and its ids that differ from ours.
        """
        import tokenizers

        backend, flags = parts.backend, parts.flags
        copy = tokenizers.Tokenizer(backend.model)
        if backend.normalizer is not None:
            copy.normalizer = backend.normalizer
        if backend.pre_tokenizer is not None:
            copy.pre_tokenizer = backend.pre_tokenizer
        special = self.special_tokens
        texts = special if aliases is None else {aliases[i]: i for i in special.values()}
        originals = dict(zip(texts, special, strict=True))
        own_ids: dict[int, int] = {}
        with library_errors("special tokens"):
            for is_special, tokens in ((True, texts), (False, self._vocabulary.user_defined)):
                settings = [
                    tokenizers.AddedToken(
                        text,
                        special=is_special,
                        **{"normalized": False, **flags.get(originals.get(text, text), {})},
                    )
                    for text in tokens
                ]
                copy.add_special_tokens(settings) if is_special else copy.add_tokens(settings)
                for text, token_id in tokens.items():
                    found = copy.token_to_id(text)
                    if found is None:
                        raise ModelFormatError(f"special token {text!r:.80} cannot be added.")
                    if found != token_id:
                        own_ids[found] = token_id
        return copy, own_ids
