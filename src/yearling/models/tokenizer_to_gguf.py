"""A Hugging Face folder's tokenizer as GGUF metadata."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_config import named_token
from yearling.models.tokenizer_gguf import pre_tokenizer, split_names
from yearling.models.tokenizer_json import tokenizer_parts
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import TokenKind, Vocabulary

__all__ = ["gguf_tokenizer"]

_MAX_FILE_BYTES = 1 << 26
_PREFIX = "tokenizer.ggml."
_BYTE_NAMES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
_PROBE = (
    "Hello, world's we'LL 12345 3.14  don't\n\n  x\ty a1b2  --- \r\n foo_bar ÀÉé \u4f60\u597d\uff0c"
    "\u0995\u09be \U0001f642!? I'D\u00a0... 7\u00bd\u0664 end  "
)


def gguf_tokenizer(folder: Path, rows: int, end_ids: Sequence[int]) -> dict[str, Any]:
    """Write `tokenizer.ggml.*`.

    Args:
        folder: It may hold a tokenizer.json.
        rows: Rows of the embedding; ids above the tokenizer's get the names of unused tokens.
        end_ids: Tokens that end an answer: of a text, of a turn.

    Returns:
        Metadata; the ends of an answer alone when the folder has no tokenizer.

    Raises:
        ModelFormatError: the tokenizer is malformed, or GGUF has no name for how it works.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        names = ("eos", "eot")
        return {f"{_PREFIX}{n}_token_id": i for n, i in zip(names, end_ids, strict=False)}
    beside = folder / "tokenizer_config.json"
    config = read_json_object(beside, _MAX_FILE_BYTES) if beside.exists() else {}
    data, parts = read_json_object(path, _MAX_FILE_BYTES), tokenizer_parts(path, config)
    if data["model"].get("type", "BPE") != "BPE":
        raise ModelFormatError(
            f"{path}: a model of type {data['model']['type']} is not written to GGUF; BPE is."
        )
    unknown = data["model"].get("unk_token")
    if parts.vocabulary.spelling == "byte_level":
        settings = _byte_level(data, path)
    else:
        settings = _sentencepiece(data, parts.vocabulary, rows)
    return {
        **settings,
        **_tokens(parts.vocabulary, rows, unknown),
        **_special_ids(config, parts, path, end_ids),
    }


def _byte_level(data: Mapping[str, Any], path: Path) -> dict[str, Any]:
    return {
        _PREFIX + "model": "gpt2",
        _PREFIX + "pre": _split_name(data, path),
        _PREFIX + "merges": [" ".join(pair) for pair in _pairs(data)],
        _PREFIX + "add_space_prefix": False,
    }


def _sentencepiece(data: Mapping[str, Any], vocabulary: Vocabulary, rows: int) -> dict[str, Any]:
    return {
        _PREFIX + "model": "llama",
        _PREFIX + "pre": "default",
        _PREFIX + "scores": _scores(data, vocabulary, rows),
        _PREFIX + "add_space_prefix": vocabulary.adds_space_prefix,
    }


def _pairs(data: Mapping[str, Any]) -> list[list[str]]:
    """Merges, which older files write as one string each."""
    merges: list[Any] = data["model"]["merges"]
    return [merge.split(" ") if isinstance(merge, str) else list(merge) for merge in merges]


def _split_name(data: Mapping[str, Any], path: Path) -> str:
    """Find GGUF's name for how text is cut, by cutting a text that tells all of them apart."""
    import tokenizers

    empty = {"type": "BPE", "vocab": {}, "merges": []}
    bare = {"version": "1.0", "model": empty, "pre_tokenizer": data.get("pre_tokenizer")}
    own = tokenizers.Tokenizer.from_str(json.dumps(bare)).pre_tokenizer
    wanted = own.pre_tokenize_str(_PROBE) if own is not None else []
    for name in split_names():
        if pre_tokenizer(name).pre_tokenize_str(_PROBE) == wanted:
            return name
    raise ModelFormatError(
        f"{path}: text is cut in a way that has no name in GGUF; known are "
        f"{', '.join(split_names())}."
    )


def _scores(data: Mapping[str, Any], vocabulary: Vocabulary, rows: int) -> NDArray[np.float32]:
    """Give tokens scores in the order of their merges; what no merge makes comes last."""
    made = dict.fromkeys(left + right for left, right in _pairs(data))
    order = {piece: number for number, piece in enumerate(made)}
    padding = max(rows - len(vocabulary.pieces), 0)
    pieces = (*vocabulary.pieces, *[None] * padding)
    return np.array([-order.get(piece or "", len(order)) for piece in pieces], np.float32)


def _tokens(vocabulary: Vocabulary, rows: int, unknown: str | None) -> dict[str, Any]:
    is_byte_level = vocabulary.spelling == "byte_level"
    pieces, kinds = list(vocabulary.pieces), list(vocabulary.kinds)
    for token_id in range(rows):
        if token_id == len(pieces):
            pieces.append(None)
            kinds.append(TokenKind.UNUSED)
        piece = pieces[token_id]
        if piece is None:
            pieces[token_id] = f"[PAD{token_id}]"
        elif piece == unknown and not is_byte_level:
            kinds[token_id] = TokenKind.UNKNOWN
        elif piece in _BYTE_NAMES and not is_byte_level:
            kinds[token_id] = TokenKind.BYTE
    written = {"tokens": pieces, "token_type": np.array(kinds, np.int32)}
    return {_PREFIX + key: value for key, value in written.items()}


def _special_ids(
    config: Mapping[str, Any], parts: TokenizerParts, path: Path, end_ids: Sequence[int]
) -> dict[str, Any]:
    ids = {
        "bos": parts.bos_id,
        "eos": end_ids[0] if end_ids else parts.eos_id,
        "eot": end_ids[1] if len(end_ids) > 1 else None,
        "unknown": named_token(config, "unk", parts.vocabulary, path),
        "padding": named_token(config, "pad", parts.vocabulary, path),
    }
    found = {f"{_PREFIX}{name}_token_id": i for name, i in ids.items() if i is not None}
    return {
        **found,
        _PREFIX + "add_bos_token": bool(parts.prefix_ids),
        _PREFIX + "add_eos_token": bool(parts.suffix_ids),
    }
