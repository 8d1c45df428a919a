"""What `tokenizer_config.json` says about special tokens."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.vocabulary import Vocabulary

__all__ = ["framed", "named_token"]


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
