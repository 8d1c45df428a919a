"""What `tokenizer_config.json` says about special tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.json_file import read_json_object
from yearling.models.vocabulary import MAX_TOKENS, Vocabulary

__all__ = ["added_tokens", "framed", "named_token"]

_MAX_ADDED_TOKENS_BYTES = 1 << 24


def added_tokens(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Tokens that a folder adds to those of its tokenizer's own file.

    They stand in `added_tokens_decoder` of `tokenizer_config.json`, before that was, in
    `added_tokens.json`.

    Args:
        path: The tokenizer's file.
        config: Content of `tokenizer_config.json`.

    Returns:
        Entries as `tokenizer.json` has them: `id`, `content`, `special` and flags.

    Raises:
        ModelFormatError: one of the two is malformed.
    """
    decoder = config.get("added_tokens_decoder")
    if decoder is None:
        return _older_added_tokens(path, config)
    if not isinstance(decoder, dict) or len(decoder) > MAX_TOKENS:
        raise ModelFormatError(f"{path.parent}: added_tokens_decoder must be an object.")
    tokens = []
    for key, token in decoder.items():
        content = token.get("content") if isinstance(token, dict) else None
        if not (key.isascii() and key.isdigit()) or type(content) is not str:
            raise ModelFormatError(
                f"{path.parent}: added_tokens_decoder holds {key[:80]!r}, which must be an id "
                "with an object that has a content."
            )
        tokens.append({**token, "id": int(key[:10])})
    return tokens


def _older_added_tokens(path: Path, config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Older files tell ids by spelling only; what others name by its role is special."""
    beside, roles = (path.with_name(f"{n}.json") for n in ("added_tokens", "special_tokens_map"))
    if not beside.exists():
        return []
    ids = read_json_object(beside, _MAX_ADDED_TOKENS_BYTES)
    if roles.exists():
        config = {**read_json_object(roles, _MAX_ADDED_TOKENS_BYTES), **config}
    names = ("bos", "eos", "unk", "pad", "sep", "cls", "mask")
    values = [config.get(f"{name}_token") for name in names]
    more = config.get("additional_special_tokens")
    values += more if isinstance(more, list) else []
    special = {value.get("content") if isinstance(value, Mapping) else value for value in values}
    return [
        {"id": token_id, "content": text, "special": text in special}
        for text, token_id in ids.items()
    ]


def named_token(
    config: Mapping[str, Any], name: str, vocabulary: Vocabulary, path: Path
) -> int | None:
    """Id of the token that plays a role, for example `bos` or `eos`; None when none does.

    Raises:
        ModelFormatError: the file names something that is no token.
    """
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


def framed(
    config: Mapping[str, Any],
    ends: tuple[int | None, int | None],
    frame: tuple[tuple[int, ...], tuple[int, ...]],
    path: Path,
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Apply `add_bos_token` and `add_eos_token` to what stands around a text.

    Args:
        config: Content of `tokenizer_config.json`.
        ends: Ids of the beginning-of-sequence and end-of-sequence tokens.
        frame: Ids before and after a text, as the tokenizer's own file says.
        path: That file, for messages.

    Raises:
        ModelFormatError: a flag is none, or wants a token that there is not.
    """
    (bos_id, eos_id), (prefix, suffix) = ends, frame
    adds_bos, adds_eos = config.get("add_bos_token"), config.get("add_eos_token")
    for name, value, token_id in (("bos", adds_bos, bos_id), ("eos", adds_eos, eos_id)):
        if not isinstance(value, bool | None) or (value and token_id is None):
            raise ModelFormatError(
                f"{path.parent}: add_{name}_token={value!r:.80}, {name}_token id {token_id}."
            )
    if adds_bos is not None and bos_id is not None:
        rest = prefix[1:] if prefix[:1] == (bos_id,) else prefix
        prefix = (bos_id, *rest) if adds_bos else rest
    if adds_eos is not None and eos_id is not None:
        rest = suffix[:-1] if suffix[-1:] == (eos_id,) else suffix
        suffix = (*rest, eos_id) if adds_eos else rest
    return prefix, suffix
