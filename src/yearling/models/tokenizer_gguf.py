"""Tokenizers from the metadata of a GGUF file: byte-level BPE and SentencePiece-type BPE."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import (
    MAX_MERGES,
    MAX_TOKENS,
    TokenKind,
    Vocabulary,
    library_errors,
)

__all__ = ["QWEN2_PATTERN", "merges_by_score", "pre_tokenizer", "split_names", "tokenizer_parts"]

_PREFIX = "tokenizer.ggml."
_MAX_SENTENCEPIECE_CHARACTERS = 1 << 22  # in all tokens; every one is cut at every place

# Split patterns are part of a model: its merges were learned on text cut this way.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_PATTERN = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


@dataclass(frozen=True, slots=True)
class _Split:
    """How byte-level text is cut before merging.

    Attributes:
        pattern: Regular expression, or None for GPT-2's, which the library holds.
        is_digit_alone: Every digit is a piece of its own before the pattern runs.
        is_whole_first: A piece that is a token stays whole, whatever the merges say.
        adds_bos: Whether prompts start with the BOS token when the file does not say.
    """

    pattern: str | None = None
    is_digit_alone: bool = False
    is_whole_first: bool = False
    adds_bos: bool = False


_GPT2_SPLIT = _Split()
_LLAMA3_SPLIT = _Split(_LLAMA3, is_whole_first=True, adds_bos=True)
_SPLITS = {
    "default": _GPT2_SPLIT,
    "gpt-2": _GPT2_SPLIT,
    "llama": _LLAMA3_SPLIT,
    "llama-bpe": _LLAMA3_SPLIT,
    "llama3": _LLAMA3_SPLIT,
    "llama-v3": _LLAMA3_SPLIT,
    "qwen2": _Split(QWEN2_PATTERN),
    "smollm": _Split(is_digit_alone=True),
    "starcoder": _Split(is_digit_alone=True),
}


def tokenizer_parts(metadata: Mapping[str, Any]) -> TokenizerParts:
    """Read `tokenizer.ggml.*`.

    Raises:
        ModelFormatError: an entry is missing, malformed or of a form this build does not read.
    """
    model = metadata.get(_PREFIX + "model")
    if model == "gpt2":
        return _byte_level(metadata)
    if model == "llama":
        return _sentencepiece(metadata)
    raise ModelFormatError(
        f"{_PREFIX}model is {model!r}; this build reads 'gpt2' (byte-level BPE) and 'llama' "
        "(SentencePiece-type BPE)."
    )


def _byte_level(metadata: Mapping[str, Any]) -> TokenizerParts:
    import tokenizers
    from tokenizers import models

    split = _split(metadata)
    vocabulary = _vocabulary(metadata, "byte_level", adds_space_prefix=False)
    merges = _pairs(_strings(metadata, "merges", MAX_MERGES))
    with library_errors(f"{_PREFIX}merges"):
        backend = tokenizers.Tokenizer(
            models.BPE(_ids(vocabulary), merges, ignore_merges=split.is_whole_first)
        )
        backend.pre_tokenizer = pre_tokenizer(metadata.get(_PREFIX + "pre", "default"))
    return _parts(metadata, backend, vocabulary, adds_bos=split.adds_bos)


def _split(metadata: Mapping[str, Any]) -> _Split:
    name = metadata.get(_PREFIX + "pre", "default")
    split = _SPLITS.get(name) if isinstance(name, str) else None
    if split is None:
        raise ModelFormatError(
            f"{_PREFIX}pre is {name!r}; this build cuts text as {', '.join(sorted(_SPLITS))}. "
            "With a wrong cut the model would see other tokens than it was trained on."
        )
    return split


def split_names() -> tuple[str, ...]:
    """Values of `tokenizer.ggml.pre` that are written, one for each way of cutting text."""
    return ("gpt-2", "llama-bpe", "qwen2", "smollm")


def pre_tokenizer(name: str) -> Any:
    """Make the library's pre-tokenizer that cuts text as a value of `tokenizer.ggml.pre` says."""
    from tokenizers import Regex, pre_tokenizers

    split = _SPLITS[name]
    steps: list[Any] = []
    if split.is_digit_alone:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if split.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(split.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None))
    return pre_tokenizers.Sequence(steps)


def _pairs(merges: list[str]) -> list[tuple[str, str]]:
    pairs = [tuple(merge.split(" ")) for merge in merges]
    wrong = [pair for pair in pairs if len(pair) != 2 or not all(pair)]
    if wrong:
        raise ModelFormatError(
            f"{_PREFIX}merges holds {' '.join(wrong[0])[:80]!r}; a merge is two tokens with one "
            "space between."
        )
    return pairs  # type: ignore[return-value]  # the length of each was just checked


def _sentencepiece(metadata: Mapping[str, Any]) -> TokenizerParts:
    import tokenizers
    from tokenizers import models, normalizers

    adds_space_prefix = _flag(metadata, "add_space_prefix", default=True)
    vocabulary = _vocabulary(metadata, "sentencepiece", adds_space_prefix=adds_space_prefix)
    scores = _scores(metadata)
    if len(scores) != len(vocabulary.pieces):
        raise ModelFormatError(
            f"{_PREFIX}scores has {len(scores)} entries for {len(vocabulary.pieces)} tokens."
        )
    unknown = _token_id(metadata, "unknown_token_id", vocabulary)
    joinable = {
        piece: token_id
        for piece, token_id in _ids(vocabulary).items()
        if vocabulary.kinds[token_id] in (TokenKind.NORMAL, TokenKind.USER_DEFINED)
    }
    steps: list[Any] = [normalizers.Replace(" ", "\u2581")]
    if adds_space_prefix:
        steps.insert(0, normalizers.Prepend("\u2581"))
    with library_errors(f"{_PREFIX}tokens"):
        backend = tokenizers.Tokenizer(
            models.BPE(
                _ids(vocabulary),
                merges_by_score(joinable, scores, f"{_PREFIX}tokens"),
                unk_token=None if unknown is None else vocabulary.pieces[unknown],
                fuse_unk=True,
                byte_fallback=True,
            )
        )
        backend.normalizer = normalizers.Sequence(steps)
    return _parts(metadata, backend, vocabulary, adds_bos=True)


def merges_by_score(
    ids: Mapping[str, int], scores: Sequence[float], where: str
) -> list[tuple[str, str]]:
    """Every way to put a token together from two others, the likeliest token first.

    SentencePiece joins whichever neighbours make the token of the highest score, so a merge
    ranks as the token it makes.

    Args:
        ids: Ids by spelling of the tokens that may be joined or made.
        scores: Score of each id.
        where: What the tokens come from, for messages.

    Raises:
        ModelFormatError: the tokens are so many or so long that this would take for ever.
    """
    if sum(map(len, ids)) > _MAX_SENTENCEPIECE_CHARACTERS:
        raise ModelFormatError(
            f"{where} has more than {_MAX_SENTENCEPIECE_CHARACTERS} characters in all."
        )
    merges: list[tuple[str, str]] = []
    for piece in sorted(ids, key=lambda piece: (-scores[ids[piece]], ids[piece])):
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                merges.append((left, right))
        if len(merges) > MAX_MERGES:
            raise ModelFormatError(f"{where} implies more than {MAX_MERGES} merges.")
    return merges


def _parts(
    metadata: Mapping[str, Any], backend: Any, vocabulary: Vocabulary, *, adds_bos: bool
) -> TokenizerParts:
    bos_id = _token_id(metadata, "bos_token_id", vocabulary)
    adds_bos = _flag(metadata, "add_bos_token", default=adds_bos and bos_id is not None)
    if adds_bos and bos_id is None:
        raise ModelFormatError(
            f"{_PREFIX}add_bos_token is true but {_PREFIX}bos_token_id is missing."
        )
    eos_id = _token_id(metadata, "eos_token_id", vocabulary)
    adds_eos = _flag(metadata, "add_eos_token", default=False)
    if adds_eos and eos_id is None:
        raise ModelFormatError(
            f"{_PREFIX}add_eos_token is true but {_PREFIX}eos_token_id is missing."
        )
    prefix = (bos_id,) if adds_bos and bos_id is not None else ()
    suffix = (eos_id,) if adds_eos and eos_id is not None else ()
    return TokenizerParts(backend, vocabulary, bos_id, eos_id, prefix, suffix)


def _vocabulary(
    metadata: Mapping[str, Any], spelling: Any, *, adds_space_prefix: bool
) -> Vocabulary:
    pieces = _strings(metadata, "tokens", MAX_TOKENS)
    kinds = [TokenKind.NORMAL] * len(pieces)
    if _PREFIX + "token_type" in metadata:
        numbers = _array(metadata, "token_type", MAX_TOKENS)
        try:
            kinds = [_KIND_OF_NUMBER[number] for number in numbers]
        except (KeyError, TypeError) as error:
            raise ModelFormatError(
                f"{_PREFIX}token_type holds {error}; token types go from 1 to 6."
            ) from error
    return Vocabulary(tuple(pieces), tuple(kinds), spelling, adds_space_prefix)


_KIND_OF_NUMBER = {int(kind): kind for kind in TokenKind}


def _strings(metadata: Mapping[str, Any], name: str, limit: int) -> list[str]:
    values = _array(metadata, name, limit)
    if set(map(type, values)) - {str}:
        raise ModelFormatError(f"{_PREFIX}{name} must hold strings only; the file is damaged.")
    return values


def _scores(metadata: Mapping[str, Any]) -> list[float]:
    try:
        scores = [float(value) for value in _array(metadata, "scores", MAX_TOKENS)]
    except (TypeError, ValueError) as error:
        raise ModelFormatError(f"{_PREFIX}scores: {error}; the file is damaged.") from error
    if any(map(math.isnan, scores)):
        raise ModelFormatError(f"{_PREFIX}scores holds a value that is not a number.")
    return scores


def _array(metadata: Mapping[str, Any], name: str, limit: int) -> list[Any]:
    values = metadata.get(_PREFIX + name)
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if not isinstance(values, list | tuple):
        found = "missing" if values is None else f"a {type(values).__name__}"
        raise ModelFormatError(f"{_PREFIX}{name} must be an array, but it is {found}.")
    if len(values) > limit:
        raise ModelFormatError(
            f"{_PREFIX}{name} has {len(values)} entries; at most {limit} are read."
        )
    return list(values)


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {piece: token_id for token_id, piece in enumerate(vocabulary.pieces) if piece}


def _token_id(metadata: Mapping[str, Any], name: str, vocabulary: Vocabulary) -> int | None:
    value = metadata.get(_PREFIX + name)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < len(vocabulary.pieces):
        raise ModelFormatError(
            f"{_PREFIX}{name} is {value!r}, but ids go from 0 to {len(vocabulary.pieces) - 1}."
        )
    return value


def _flag(metadata: Mapping[str, Any], name: str, *, default: bool) -> bool:
    value = metadata.get(_PREFIX + name, default)
    if not isinstance(value, bool):
        raise ModelFormatError(f"{_PREFIX}{name} is {value!r}; it must be true or false.")
    return value
