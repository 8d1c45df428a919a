"""The special tokens that a `tokenizer.json` puts around a text: its post-processor."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.vocabulary import Vocabulary

__all__ = ["read_frame"]

_MAX_STEPS = 64
_MAX_FRAME_TOKENS = 64

Frame = tuple[tuple[int, ...], tuple[int, ...]]


def read_frame(processor: Any, vocabulary: Vocabulary, path: Path) -> Frame:
    """Give the ids before and the ids after a single text.

    Raises:
        ModelFormatError: the post-processor is malformed or of a kind that is not read.
    """
    prefix: tuple[int, ...] = ()
    suffix: tuple[int, ...] = ()
    for step in _steps(processor, path):
        before, after = _frame_of_step(step, vocabulary, path)
        prefix, suffix = before + prefix, suffix + after
    if len(prefix) + len(suffix) > _MAX_FRAME_TOKENS:
        raise ModelFormatError(
            f"{path}: post_processor adds {len(prefix) + len(suffix)} tokens; "
            f"at most {_MAX_FRAME_TOKENS} are read."
        )
    return prefix, suffix


def _steps(processor: Any, path: Path) -> list[Any]:
    if processor is None:
        return []
    if not isinstance(processor, dict) or processor.get("type") != "Sequence":
        return [processor]
    steps = processor.get("processors")
    if not isinstance(steps, list) or len(steps) > _MAX_STEPS:
        raise ModelFormatError(
            f"{path}: post_processor.processors must be a list of at most {_MAX_STEPS}."
        )
    return steps


def _frame_of_step(step: Any, vocabulary: Vocabulary, path: Path) -> Frame:
    kind = step.get("type") if isinstance(step, dict) else None
    if kind == "ByteLevel":  # it moves offsets only
        return (), ()
    if kind == "TemplateProcessing":
        return _template(step, vocabulary, path)
    if kind in ("BertProcessing", "RobertaProcessing"):
        cls, sep = (_named_id(step.get(name), vocabulary, path) for name in ("cls", "sep"))
        return (cls,), (sep,)
    raise ModelFormatError(
        f"{path}: post_processor of type {kind!r} is not read; known: BertProcessing, ByteLevel, "
        "RobertaProcessing, Sequence, TemplateProcessing."
    )


def _template(step: Mapping[str, Any], vocabulary: Vocabulary, path: Path) -> Frame:
    single, special = step.get("single"), step.get("special_tokens")
    if not isinstance(single, list) or not isinstance(special, dict):
        raise ModelFormatError(
            f"{path}: post_processor.single must be a list and special_tokens an object."
        )
    sides: list[list[int]] = [[], []]
    num_texts = 0
    for entry in single:
        if isinstance(entry, dict) and set(entry) == {"Sequence"}:
            num_texts += 1
        else:
            sides[num_texts > 0] += _special_ids(entry, special, vocabulary, path)
    if num_texts != 1:
        raise ModelFormatError(
            f"{path}: post_processor.single holds the text {num_texts} times; it must be once."
        )
    return tuple(sides[0]), tuple(sides[1])


def _special_ids(
    entry: Any, special: Mapping[str, Any], vocabulary: Vocabulary, path: Path
) -> list[int]:
    name = entry.get("SpecialToken") if isinstance(entry, dict) else None
    name = name.get("id") if isinstance(name, dict) else None
    token = special.get(name) if isinstance(name, str) else None
    ids = token.get("ids") if isinstance(token, dict) else None
    if not isinstance(ids, list) or len(ids) > _MAX_FRAME_TOKENS:
        raise ModelFormatError(
            f"{path}: post_processor names {name!r:.80}, which its special_tokens do not give."
        )
    return [_checked(token_id, vocabulary, path) for token_id in ids]


def _named_id(pair: Any, vocabulary: Vocabulary, path: Path) -> int:
    if not isinstance(pair, list) or len(pair) != 2:
        raise ModelFormatError(f"{path}: post_processor needs [token, id], not {pair!r:.80}.")
    return _checked(pair[1], vocabulary, path)


def _checked(token_id: Any, vocabulary: Vocabulary, path: Path) -> int:
    size = len(vocabulary.pieces)
    if type(token_id) is not int or not 0 <= token_id < size or vocabulary.pieces[token_id] is None:
        raise ModelFormatError(f"{path}: post_processor adds id {token_id!r}, which no token has.")
    return token_id
