"""Byte-level tokenizers from older files: `vocab.json` with `merges.txt`, and ranks of tokens.

Both are turned into what a `tokenizer.json` would hold and are read as that.
"""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.source import SourceFile
from yearling.models.json_file import read_json_object
from yearling.models.tokenizer_config import added_tokens
from yearling.models.tokenizer_gguf import QWEN2_PATTERN, merges_by_score
from yearling.models.tokenizer_json import parts_of
from yearling.models.tokenizer_parts import TokenizerParts
from yearling.models.vocabulary import MAX_MERGES, MAX_TOKENS, byte_level_spelling

__all__ = ["merges_parts", "ranks_parts"]

_MAX_FILE_BYTES = 1 << 26
_ENDS = "<|endoftext|>"
# Qwen's control tokens follow the ranks, in this order.
_QWEN_TOKENS = (
    *(_ENDS, "<|im_start|>", "<|im_end|>"),
    *(f"<|extra_{index}|>" for index in range(205)),
)


def merges_parts(path: Path, config: Mapping[str, Any]) -> TokenizerParts:
    """Read `vocab.json`, with the `merges.txt` beside it: GPT-2 and its heirs.

    Args:
        path: `vocab.json`.
        config: Content of the `tokenizer_config.json` beside it, or empty.

    Raises:
        ModelNotFoundError: one of the two is missing.
        ModelFormatError: one of them is malformed.
    """
    tokens = read_json_object(path, _MAX_FILE_BYTES)
    merges_path = path.with_name("merges.txt")
    lines = [line for line in _lines(merges_path) if line and not line.startswith("#version")]
    if len(lines) > MAX_MERGES:
        raise ModelFormatError(
            f"{merges_path}: {len(lines)} merges; at most {MAX_MERGES} are read."
        )
    merges = [line.split(" ") for line in lines]
    wrong = next((merge for merge in merges if len(merge) != 2 or not all(merge)), None)
    if wrong is not None:
        raise ModelFormatError(
            f"{merges_path}: holds {' '.join(wrong)[:80]!r}; a merge is two tokens with one space "
            "between."
        )
    added = added_tokens(path, config)
    named = {token.get("content") for token in added}
    if _ENDS in tokens and _ENDS not in named:  # GPT-2's only control token is not told apart
        added.append({"id": tokens[_ENDS], "content": _ENDS, "special": True})
    data = {
        **_byte_level(tokens, merges, added),
        "pre_tokenizer": {
            **_BYTE_LEVEL,
            "add_prefix_space": config.get("add_prefix_space") is True,
        },
    }
    ends = {"bos_token": _ENDS, "eos_token": _ENDS} if _ENDS in tokens else {}
    return parts_of(data, {**ends, **config}, path)


def ranks_parts(path: Path, config: Mapping[str, Any]) -> TokenizerParts:
    """Read `qwen.tiktoken`: a line for each token, its bytes in base64 and its rank.

    Neighbours are joined that make the token of the lowest rank, and the rank is its id.

    Args:
        path: The file.
        config: Content of the `tokenizer_config.json` beside it, or empty.

    Raises:
        ModelFormatError: it is malformed.
    """
    tokens = _ranks(path)
    added = [
        {"id": len(tokens) + index, "content": text, "special": True}
        for index, text in enumerate(_QWEN_TOKENS)
    ]
    scores = [-float(rank) for rank in range(len(tokens))]
    data = {
        **_byte_level(tokens, merges_by_score(tokens, scores, str(path)), added),
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {
                    "type": "Split",
                    "pattern": {"Regex": QWEN2_PATTERN},
                    "behavior": "Isolated",
                    "invert": False,
                },
                {**_BYTE_LEVEL, "use_regex": False},
            ],
        },
    }
    return parts_of(data, {"eos_token": _ENDS, **config}, path)


_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}


def _byte_level(
    tokens: Mapping[str, Any], merges: list[Any], added: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "added_tokens": added,
        "normalizer": None,
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": tokens, "merges": merges},
    }


def _ranks(path: Path) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for number, line in enumerate(_lines(path), start=1):
        if not line:
            continue
        encoded, _, rank = line.partition(" ")
        try:
            token = base64.b64decode(encoded, validate=True)
        except ValueError as error:
            raise ModelFormatError(f"{path}: line {number} is not base64: {error}.") from error
        if rank != str(len(tokens)) or not token or len(tokens) == MAX_TOKENS:
            raise ModelFormatError(
                f"{path}: line {number} must hold a token and its rank, {len(tokens)}, but holds "
                f"{line[:80]!r}."
            )
        if tokens.setdefault(byte_level_spelling(token), len(tokens)) != int(rank):
            raise ModelFormatError(f"{path}: line {number} repeats a token.")
    return tokens


def _lines(path: Path) -> list[str]:
    source = SourceFile(path)
    try:
        if source.size > _MAX_FILE_BYTES:
            raise ModelFormatError(f"{path}: has {source.size} bytes, above {_MAX_FILE_BYTES}.")
        return source.read(0, source.size, "the file").tobytes().decode().split("\n")
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{path}: is not UTF-8.") from error
    finally:
        source.close()
