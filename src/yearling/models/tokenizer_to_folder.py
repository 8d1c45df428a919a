"""A GGUF file's tokenizer as the files of a Hugging Face folder."""

import json
from collections.abc import Mapping
from typing import Any

from yearling.models.tokenizer_gguf import tokenizer_parts
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import TokenKind, Vocabulary

__all__ = ["folder_tokenizer"]

_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
_ADDED = {TokenKind.CONTROL: True, TokenKind.UNKNOWN: True, TokenKind.USER_DEFINED: False}
_LONGEST_CONTEXT = 10**30  # what transformers writes for no limit of the tokenizer's own


def folder_tokenizer(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

    Args:
        metadata: The GGUF file's.

    Returns:
        Content of each file by its name; empty when there is no tokenizer.

    Raises:
        ModelFormatError: the tokenizer is malformed, or of a form that is not read.
    """
    if "tokenizer.ggml.model" not in metadata:
        return {}
    parts = tokenizer_parts(metadata)
    special = {
        f"{role}_token": parts.vocabulary.pieces[metadata[f"tokenizer.ggml.{key}_token_id"]]
        for role, key in _ROLES.items()
        if f"tokenizer.ggml.{key}_token_id" in metadata
    }
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "add_bos_token": bool(parts.prefix_ids),
        "add_eos_token": bool(parts.suffix_ids),
        "clean_up_tokenization_spaces": False,
        "model_max_length": _LONGEST_CONTEXT,
    }
    return {
        "tokenizer.json": _tokenizer_json(parts),
        "tokenizer_config.json": config,
        "special_tokens_map.json": special,
    }


def _tokenizer_json(parts: TokenizerParts) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(parts.backend.to_str())
    for token_id, kind in enumerate(parts.vocabulary.kinds):
        if kind is TokenKind.UNUSED:  # fills the rows that pad an embedding
            content["model"]["vocab"].pop(f"[PAD{token_id}]", None)
    content["added_tokens"] = _added_tokens(parts.vocabulary)
    content["decoder"] = _decoder(parts.vocabulary)
    content["post_processor"] = _post_processor(parts)
    return content


def _added_tokens(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return [
        {"id": token_id, "content": piece, **off, "special": _ADDED[kind]}
        for token_id, (piece, kind) in enumerate(
            zip(vocabulary.pieces, vocabulary.kinds, strict=True)
        )
        if kind in _ADDED
    ]


def _decoder(vocabulary: Vocabulary) -> dict[str, Any]:
    if vocabulary.spelling == "byte_level":
        flags = {"add_prefix_space": True, "trim_offsets": True, "use_regex": True}
        return {"type": "ByteLevel", **flags}
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if vocabulary.adds_space_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _post_processor(parts: TokenizerParts) -> dict[str, Any] | None:
    """Put the tokens that stand around a text there, as a template of the library's."""
    if not parts.prefix_ids and not parts.suffix_ids:
        return None
    ids = {str(parts.vocabulary.pieces[i]): i for i in (*parts.prefix_ids, *parts.suffix_ids)}

    def frame(letter: str, kind: int) -> list[dict[str, Any]]:
        def special(token_id: int) -> dict[str, Any]:
            piece = parts.vocabulary.pieces[token_id]
            return {"SpecialToken": {"id": piece, "type_id": kind}}

        text = {"Sequence": {"id": letter, "type_id": kind}}
        return [*map(special, parts.prefix_ids), text, *map(special, parts.suffix_ids)]

    return {
        "type": "TemplateProcessing",
        "single": frame("A", 0),
        "pair": frame("A", 0) + frame("B", 1),
        "special_tokens": {
            piece: {"id": piece, "ids": [token_id], "tokens": [piece]}
            for piece, token_id in ids.items()
        },
    }
