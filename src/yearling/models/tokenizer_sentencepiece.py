"""Tokenizers from SentencePiece's `tokenizer.model`, which many models of 2023 ship alone."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.models.sentencepiece_file import SentencePieceModel, read_sentencepiece
from yearling.models.tokenizer_config import added_tokens
from yearling.models.tokenizer_gguf import merges_by_score
from yearling.models.tokenizer_json import parts_of
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import TokenKind

__all__ = ["tokenizer_parts"]

_SPACE = "\u2581"
# Tokens that ChatGLM2 and 3 put after those of the file, and what they begin every text with.
_CHATGLM_TOKENS = (
    *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
)
_CHATGLM_PREFIX = ("[gMASK]", "sop")


def tokenizer_parts(path: Path, config: Mapping[str, Any]) -> TokenizerParts:
    """Read a `tokenizer.model`.

    Args:
        path: The file.
        config: Content of the `tokenizer_config.json` beside it, or empty.

    Raises:
        ModelFormatError: the file is malformed, or of a form this build does not read.
    """
    model = read_sentencepiece(path)
    added = _special_pieces(model)
    kind = config.get("tokenizer_class")
    post_processor = None
    if kind == "ChatGLMTokenizer":
        ids = {text: len(model.pieces) + i for i, text in enumerate(_CHATGLM_TOKENS)}
        added += [{"id": i, "content": text, "special": True} for text, i in ids.items()]
        post_processor = _prefix({text: ids[text] for text in _CHATGLM_PREFIX})
    added += added_tokens(path, config)
    data = {
        "added_tokens": list({token["content"]: token for token in added}.values()),
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": post_processor,
        "decoder": _decoder(model),
        "model": _model(model, path),
    }
    return parts_of(data, {**_defaults(model, kind), **config}, path)


def _special_pieces(model: SentencePieceModel) -> list[dict[str, Any]]:
    return [
        # The backend looks for pieces of the user in text as it is written, with plain spaces.
        {"id": i, "content": piece.replace(_SPACE, " "), "special": False}
        if kind == TokenKind.USER_DEFINED
        else {"id": i, "content": piece, "special": True}
        for i, (piece, kind) in enumerate(zip(model.pieces, model.kinds, strict=True))
        if kind in (TokenKind.CONTROL, TokenKind.UNKNOWN, TokenKind.USER_DEFINED)
    ]


def _prefix(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "type": "TemplateProcessing",
        "single": [
            *({"SpecialToken": {"id": text, "type_id": 0}} for text in ids),
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "special_tokens": {text: {"id": text, "ids": [i]} for text, i in ids.items()},
    }


def _defaults(model: SentencePieceModel, kind: Any) -> dict[str, Any]:
    """What holds where `tokenizer_config.json` is silent, as the publishers' classes have it."""
    ends = {
        f"{name}_token": model.pieces[token_id]
        for name, token_id in (("bos", model.bos_id), ("eos", model.eos_id))
        if token_id is not None
    }
    if kind == "ChatGLMTokenizer":
        return ends
    if kind == "T5Tokenizer" or model.bos_id is None:
        return {**ends, "add_eos_token": model.eos_id is not None}
    return {**ends, "add_bos_token": True}


def _normalizers(model: SentencePieceModel) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if model.character_map:
        table = base64.b64encode(model.character_map).decode()
        steps.append({"type": "Precompiled", "precompiled_charsmap": table})
    if model.is_space_squeezed:
        steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.adds_space_prefix:
        steps.append({"type": "Prepend", "prepend": _SPACE})
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": _SPACE})
    return steps


def _decoder(model: SentencePieceModel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if model.adds_space_prefix:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _model(model: SentencePieceModel, path: Path) -> dict[str, Any]:
    unknown = next((i for i, k in enumerate(model.kinds) if k == TokenKind.UNKNOWN), None)
    spellings = [
        piece.replace(_SPACE, " ") if kind == TokenKind.USER_DEFINED else piece
        for piece, kind in zip(model.pieces, model.kinds, strict=True)
    ]
    if model.model_type == "unigram":
        return {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [list(pair) for pair in zip(spellings, model.scores, strict=True)],
            "byte_fallback": model.has_byte_fallback,
        }
    joinable = {
        piece: i
        for i, piece in enumerate(model.pieces)
        if model.kinds[i] in (TokenKind.NORMAL, TokenKind.USER_DEFINED)
    }
    joinable = {piece: i for piece, i in joinable.items() if spellings[i] == piece}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None if unknown is None else model.pieces[unknown],
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.has_byte_fallback,
        "vocab": {piece: i for i, piece in enumerate(spellings)},
        "merges": [list(pair) for pair in merges_by_score(joinable, model.scores, str(path))],
    }
