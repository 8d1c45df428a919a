"""Tokenizers from `tokenizer.json`, the tokenizers library's own format.

The file may come from anywhere, so it is checked before the library sees it: the library
trusts lengths and ids, and a regular expression in it runs on every text a user sends.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.json_file import read_json_object
from yearling.models.vocabulary import (
    MAX_MERGES,
    MAX_TOKENS,
    TokenKind,
    Vocabulary,
    library_errors,
)

if TYPE_CHECKING:
    import tokenizers

__all__ = ["JsonTokenizerParts", "tokenizer_parts"]

_MAX_FILE_BYTES = 1 << 26  # the largest published files have 35 MB
_MAX_PATTERN_CHARACTERS = 4096
_MAX_REPLACEMENT_CHARACTERS = 64
_MAX_STEPS = 64
_STEPS = {
    "normalizer": {
        *("Lowercase", "NFC", "NFD", "NFKC", "NFKD", "Nmt", "Prepend", "Replace"),
        *("Sequence", "Strip", "StripAccents"),
    },
    "pre_tokenizer": {
        *("ByteLevel", "Digits", "Metaspace", "Punctuation", "Sequence", "Split"),
        *("UnicodeScripts", "Whitespace", "WhitespaceSplit"),
    },
    "decoder": {
        *("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Sequence", "Strip"),
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


@dataclass(frozen=True, slots=True)
class JsonTokenizerParts:
    """What `tokenizer.json` and `tokenizer_config.json` say.

    Attributes:
        backend: Model, normalizer and pre-tokenizer, without any special token.
        vocabulary: All tokens.
        flags: Settings of added tokens by spelling: `lstrip rstrip single_word normalized`.
        bos_id: Beginning-of-sequence token, or None.
        eos_id: End-of-sequence token, or None.
        adds_bos: Whether prompts start with `bos_id`.
    """

    backend: "tokenizers.Tokenizer"
    vocabulary: Vocabulary
    flags: Mapping[str, Mapping[str, bool]]
    bos_id: int | None
    eos_id: int | None
    adds_bos: bool


def tokenizer_parts(path: Path, config: Mapping[str, Any]) -> JsonTokenizerParts:
    """Read a `tokenizer.json`.

    Args:
        path: The file.
        config: Content of the `tokenizer_config.json` beside it, or empty.

    Raises:
        ModelFormatError: the file is malformed, or of a form this build does not read.
    """
    data = read_json_object(path, _MAX_FILE_BYTES)
    for field in _STEPS:
        _check_steps(data.get(field), field, path)
    added = _added_tokens(data, path)
    vocabulary = _vocabulary(data, added, path)
    backend = _backend(data, path)
    flags = {token["content"]: _flags(token) for token in added}
    bos_id, eos_id = (_named_token(config, name, vocabulary, path) for name in ("bos", "eos"))
    adds_bos = config.get("add_bos_token")
    if adds_bos is None:
        adds_bos = bos_id is not None and _template_starts_with(data, vocabulary.pieces[bos_id])
    if not isinstance(adds_bos, bool) or (adds_bos and bos_id is None):
        raise ModelFormatError(f"{path.parent}: add_bos_token={adds_bos!r}, bos_token id {bos_id}.")
    return JsonTokenizerParts(backend, vocabulary, flags, bos_id, eos_id, adds_bos)


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
    if not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        kind = model.get("type") if isinstance(model, dict) else None
        raise ModelFormatError(
            f"{path}: model of type {kind!r} is not read; this build reads 'BPE'."
        )
    tokens, merges = model.get("vocab"), model.get("merges")
    if not isinstance(tokens, dict) or not isinstance(merges, list):
        raise ModelFormatError(f"{path}: model.vocab must be an object and model.merges a list.")
    if len(merges) > MAX_MERGES:
        raise ModelFormatError(f"{path}: {len(merges)} merges; at most {MAX_MERGES} are read.")
    entries = [(piece, token_id, TokenKind.NORMAL) for piece, token_id in tokens.items()]
    for token in added:
        kind = TokenKind.CONTROL if token.get("special") is True else TokenKind.USER_DEFINED
        entries.append((token["content"], token.get("id"), kind))
    return _by_id(entries, tokens, data, path)


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
    decoders = {step.get("type") for step in _kinds(data.get("decoder"))}
    if "ByteLevel" in decoders:
        return "byte_level"
    if decoders & {"Metaspace", "Replace", "ByteFallback"}:
        return "sentencepiece"
    raise ModelFormatError(
        f"{path}: the decoder names neither ByteLevel nor Metaspace nor Replace, so the bytes "
        "of a token are unknown."
    )


def _strips_space(data: dict[str, Any]) -> bool:
    for step in _kinds(data.get("decoder")):
        if step.get("type") == "Strip" and step.get("start") == 1:
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


def _named_token(
    config: Mapping[str, Any], name: str, vocabulary: Vocabulary, path: Path
) -> int | None:
    value = config.get(f"{name}_token")
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is None:
        return None
    if value not in vocabulary.pieces:
        raise ModelFormatError(
            f"{path.parent}: {name}_token {value!r:.80} of tokenizer_config.json is not a token."
        )
    return vocabulary.pieces.index(value)


def _template_starts_with(data: dict[str, Any], piece: str | None) -> bool:
    """Whether the file's post-processor puts this token before a text."""
    processor = data.get("post_processor")
    steps = processor.get("processors", [processor]) if isinstance(processor, dict) else []
    for step in steps if isinstance(steps, list) else []:
        single = step.get("single") if isinstance(step, dict) else None
        if isinstance(single, list) and single and isinstance(single[0], dict):
            special = single[0].get("SpecialToken")
            return isinstance(special, dict) and special.get("id") == piece
    return False
