"""Tokenizers from `tokenizer.json`, the tokenizers library's own format.

The file may come from anywhere, so it is checked before the library sees it: the library
trusts lengths and ids, and a regular expression in it runs on every text a user sends.
"""

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_config import framed, named_token
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.tokenizer_template import read_frame
from yearling.models.vocabulary import (
    MAX_MERGES,
    MAX_TOKENS,
    TokenKind,
    Vocabulary,
    library_errors,
)

__all__ = ["parts_of", "tokenizer_parts"]

_MAX_FILE_BYTES = 1 << 26  # the largest published files have 35 MB
_MAX_PATTERN_CHARACTERS = 4096
_MAX_REPLACEMENT_CHARACTERS = 64
_MAX_CHARACTER_MAP_CHARACTERS = 1 << 21  # published maps have some 300,000, in base64
_MAX_WORD_CHARACTERS = 1000  # a word piece's search takes their square, and more
_MAX_STEPS = 64
_STEPS = {
    "normalizer": {
        *("BertNormalizer", "Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Precompiled"),
        *("Prepend", "Replace", "Sequence", "Strip", "StripAccents"),
    },
    "pre_tokenizer": {
        *("BertPreTokenizer", "ByteLevel", "Digits", "Metaspace", "Punctuation", "Sequence"),
        *("Split", "UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    },
    "decoder": {
        *("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"),
        "WordPiece",
    },
}

# A pattern that backtracks without end does so on long runs that fail at their end. The
# library gives up after ten million steps with a panic, so one try of each shows it.
_PROBES = (
    "a" * 64 + "!",
    "A" * 64 + "1",
    "1" * 64 + "a",
    " " * 64 + "a",
    "\n " * 32 + "a",
    "!" * 64,
)


_MODELS = ("BPE", "Unigram", "WordPiece")
_WORD_PIECE_PREFIX = "##"


def tokenizer_parts(path: Path, config: Mapping[str, Any]) -> TokenizerParts:
    """Read a `tokenizer.json`.

    Args:
        path: The file.
        config: Content of the `tokenizer_config.json` beside it, or empty.

    Raises:
        ModelFormatError: the file is malformed, or of a form this build does not read.
    """
    return parts_of(read_json_object(path, _MAX_FILE_BYTES), config, path)


def parts_of(data: dict[str, Any], config: Mapping[str, Any], path: Path) -> TokenizerParts:
    """Read what a `tokenizer.json` holds, or what other files were turned into.

    Raises:
        ModelFormatError: it is malformed, or of a form this build does not read.
    """
    for field in _STEPS:
        _check_steps(data.get(field), field, path)
    added = _added_tokens(data, path)
    vocabulary = _vocabulary(data, added, path)
    secret = secrets.token_hex(16)
    hidden = _hide_special(data, vocabulary, secret)
    backend = _backend({**data, "model": hidden}, path)
    flags = {token["content"]: _flags(token) for token in added}
    bos_id, eos_id = (named_token(config, name, vocabulary, path) for name in ("bos", "eos"))
    prefix, suffix = read_frame(data.get("post_processor"), vocabulary, path)
    prefix, suffix = framed(config, (bos_id, eos_id), (prefix, suffix), path)
    return TokenizerParts(backend, vocabulary, bos_id, eos_id, prefix, suffix, flags, secret)


def _check_steps(step: Any, field: str, path: Path, depth: int = 0) -> None:
    """Refuse kinds of steps, patterns and replacements that could run away."""
    if step is None:
        return
    kind = step.get("type") if isinstance(step, dict) else None
    if kind not in _STEPS[field] or depth > 4:
        raise ModelFormatError(
            f"{path}: {field} of type {kind!r} is not read; known: {sorted(_STEPS[field])}."
        )
    children = step.get(field + "s", step.get("pretokenizers", step.get("decoders")))
    if kind == "Sequence":
        if not isinstance(children, list) or len(children) > _MAX_STEPS:
            raise ModelFormatError(f"{path}: {field} must be a list of at most {_MAX_STEPS} steps.")
        for child in children:
            _check_steps(child, field, path, depth + 1)
    pattern = step.get("pattern")
    texts = list(pattern.values()) if isinstance(pattern, dict) else []
    _check_length(texts, _MAX_PATTERN_CHARACTERS, field, path)
    maps = [step[key] for key in ("precompiled_charsmap",) if key in step]
    _check_length(maps, _MAX_CHARACTER_MAP_CHARACTERS, field, path)
    inserted = [step[key] for key in ("content", "prepend") if key in step]
    _check_length(inserted, _MAX_REPLACEMENT_CHARACTERS, field, path)


def _check_length(texts: list[Any], limit: int, field: str, path: Path) -> None:
    for text in texts:
        if isinstance(text, str) and len(text) > limit:
            raise ModelFormatError(
                f"{path}: {field} holds a string of {len(text)} characters; "
                f"at most {limit} are read."
            )


def _added_tokens(data: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    added = data.get("added_tokens") or []
    if not isinstance(added, list) or len(added) > MAX_TOKENS:
        raise ModelFormatError(f"{path}: added_tokens must be a list of at most {MAX_TOKENS}.")
    for index, token in enumerate(added):
        if not isinstance(token, dict) or type(token.get("content")) is not str:
            raise ModelFormatError(f"{path}: added_tokens[{index}] has no content.")
    return added


def _flags(token: dict[str, Any]) -> dict[str, bool]:
    return {
        name: token.get(name) is True for name in ("lstrip", "rstrip", "single_word", "normalized")
    }


def _vocabulary(data: dict[str, Any], added: list[dict[str, Any]], path: Path) -> Vocabulary:
    model = data.get("model")
    kind = model.get("type", "BPE") if isinstance(model, dict) else None
    if not isinstance(model, dict) or kind not in _MODELS:
        raise ModelFormatError(
            f"{path}: model of type {kind!r} is not read; this build reads {', '.join(_MODELS)}."
        )
    tokens = _MODEL_TOKENS[kind](model, path)
    entries = [(piece, token_id, TokenKind.NORMAL) for piece, token_id in tokens.items()]
    for token in added:
        token_kind = TokenKind.CONTROL if token.get("special") is True else TokenKind.USER_DEFINED
        entries.append((token["content"], token.get("id"), token_kind))
    return _by_id(entries, tokens, data, path)


def _bpe_tokens(model: dict[str, Any], path: Path) -> dict[str, Any]:
    tokens, merges = model.get("vocab"), model.get("merges")
    if not isinstance(tokens, dict) or not isinstance(merges, list):
        raise ModelFormatError(f"{path}: model.vocab must be an object and model.merges a list.")
    if len(merges) > MAX_MERGES:
        raise ModelFormatError(f"{path}: {len(merges)} merges; at most {MAX_MERGES} are read.")
    return tokens


def _word_piece_tokens(model: dict[str, Any], path: Path) -> dict[str, Any]:
    tokens, unknown = model.get("vocab"), model.get("unk_token")
    if not isinstance(tokens, dict) or not isinstance(unknown, str) or unknown not in tokens:
        raise ModelFormatError(
            f"{path}: model.vocab must be an object that holds unk_token, {unknown!r:.80}."
        )
    prefix = model.get("continuing_subword_prefix", _WORD_PIECE_PREFIX)
    if prefix != _WORD_PIECE_PREFIX:
        raise ModelFormatError(
            f"{path}: continuing_subword_prefix is {prefix!r:.80}; {_WORD_PIECE_PREFIX!r} is read."
        )
    longest = model.get("max_input_chars_per_word", 100)
    if type(longest) is not int or not 0 < longest <= _MAX_WORD_CHARACTERS:
        raise ModelFormatError(
            f"{path}: max_input_chars_per_word is {longest!r:.80}; "
            f"between 1 and {_MAX_WORD_CHARACTERS} are read."
        )
    return tokens


def _unigram_tokens(model: dict[str, Any], path: Path) -> dict[str, Any]:
    entries, unknown = model.get("vocab"), model.get("unk_id")
    if not isinstance(entries, list) or len(entries) > MAX_TOKENS:
        raise ModelFormatError(f"{path}: model.vocab must be a list of at most {MAX_TOKENS}.")
    tokens: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, list) or len(entry) != 2 or type(entry[0]) is not str:
            raise ModelFormatError(f"{path}: model.vocab[{index}] must be [token, score].")
        if type(entry[1]) not in (int, float) or not math.isfinite(entry[1]):
            raise ModelFormatError(f"{path}: token {entry[0][:80]!r} has score {entry[1]!r:.80}.")
        if tokens.setdefault(entry[0], index) != index:
            raise ModelFormatError(f"{path}: model.vocab holds {entry[0][:80]!r} twice.")
    # Without it a text with a character that no token has could not be encoded at all.
    if type(unknown) is not int or not 0 <= unknown < len(tokens):
        raise ModelFormatError(
            f"{path}: unk_id is {unknown!r:.80}, but ids go from 0 to {len(tokens) - 1}."
        )
    return tokens


_MODEL_TOKENS = {
    "BPE": _bpe_tokens,
    "Unigram": _unigram_tokens,
    "WordPiece": _word_piece_tokens,
}


def _hide_special(data: dict[str, Any], vocabulary: Vocabulary, secret: str) -> dict[str, Any]:
    """Respell special tokens in the model, so that no text is ever one of them.

    Unigram and WordPiece find whatever spelling their list holds, `</s>` too. BPE reaches a
    token by merges only.
    """
    model: dict[str, Any] = data["model"]
    kind = model.get("type", "BPE")
    special = vocabulary.special
    if kind == "Unigram":
        entries = [
            [f"{secret}-{piece}" if piece in special else piece, score]
            for piece, score in model["vocab"]
        ]
        return {**model, "vocab": entries}
    if kind == "WordPiece":
        # The unknown token is looked up by its spelling, and stands for what no text spells.
        tokens = {
            f"{secret}-{piece}" if piece in special else piece: token_id
            for piece, token_id in model["vocab"].items()
        }
        unknown = model["unk_token"]
        return {
            **model,
            "vocab": tokens,
            "unk_token": f"{secret}-{unknown}" if unknown in special else unknown,
        }
    return model


def _by_id(
    entries: list[tuple[str, Any, TokenKind]],
    model_tokens: dict[str, Any],
    data: dict[str, Any],
    path: Path,
) -> Vocabulary:
    for piece, token_id, _ in entries:
        if type(token_id) is not int or not 0 <= token_id < MAX_TOKENS:
            raise ModelFormatError(
                f"{path}: token {piece[:80]!r} has id {token_id!r}; "
                f"ids go from 0 to {MAX_TOKENS - 1}."
            )
    size = 1 + max((token_id for _, token_id, _ in entries), default=-1)
    if size > 2 * len(entries) + 1024:
        raise ModelFormatError(f"{path}: {len(entries)} tokens are spread over {size} ids.")
    pieces: list[str | None] = [None] * size
    kinds = [TokenKind.UNUSED] * size
    for piece, token_id, kind in entries:
        if pieces[token_id] not in (None, piece):
            raise ModelFormatError(
                f"{path}: id {token_id} is both {pieces[token_id]!r:.80} and {piece[:80]!r}."
            )
        if model_tokens.get(piece, token_id) != token_id:
            raise ModelFormatError(
                f"{path}: token {piece[:80]!r} has id {model_tokens[piece]} in the model "
                f"and {token_id} among the added tokens."
            )
        pieces[token_id], kinds[token_id] = piece, kind
    spelling = _spelling(data, path)
    return Vocabulary(tuple(pieces), tuple(kinds), spelling, _strips_space(data))


def _kinds(step: Any) -> list[dict[str, Any]]:
    """A step and the steps inside it, flat; `_check_steps` has bounded the depth."""
    if not isinstance(step, dict):
        return []
    inner = [child for key in ("decoders", "pretokenizers") for child in step.get(key) or []]
    return [step, *(found for child in inner for found in _kinds(child))]


def _spelling(data: dict[str, Any], path: Path) -> Any:
    steps = _kinds(data.get("decoder"))
    decoders = {step.get("type") for step in steps}
    if "ByteLevel" in decoders:
        return "byte_level"
    if "WordPiece" in decoders:
        if [(step.get("prefix"), step.get("cleanup")) for step in steps] != [("##", True)]:
            raise ModelFormatError(
                f"{path}: a decoder of type WordPiece is read only with prefix '##' and cleanup."
            )
        return "wordpiece"
    if decoders & {"Metaspace", "Replace", "ByteFallback"}:
        return "sentencepiece"
    raise ModelFormatError(
        f"{path}: the decoder names none of ByteLevel, Metaspace, Replace and WordPiece, so the "
        "bytes of a token are unknown."
    )


def _strips_space(data: dict[str, Any]) -> bool:
    for step in _kinds(data.get("decoder")):
        if step.get("type") == "Strip" and step.get("start") == 1:
            return True
        if step.get("type") == "WordPiece":
            return True
        if step.get("type") == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never")
    return False


def _backend(data: dict[str, Any], path: Path) -> Any:
    """Build model and text steps; added tokens are left to the Tokenizer class."""
    import tokenizers

    bare = {**data, "added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    with library_errors(str(path)):
        backend = tokenizers.Tokenizer.from_str(json.dumps(bare, ensure_ascii=False))
    with library_errors(f"{path}: a pattern runs away on repeated characters"):
        for probe in _PROBES:
            backend.encode(probe, add_special_tokens=False)
    return backend
