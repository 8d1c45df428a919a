"""JSON files of models, with a bound on their size and no repeated keys."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.source import SourceFile

__all__ = ["read_json_array", "read_json_object"]

_MAX_CONTAINERS = 1 << 22


def read_json_object(path: Path, limit_bytes: int) -> dict[str, Any]:
    """Read a file that holds one JSON object.

    Raises:
        ModelNotFoundError: nothing is there.
        ModelFormatError: it is larger than the limit, no JSON object, or repeats a key.
    """
    content = _read_json(path, limit_bytes)
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path}: must hold one JSON object.")
    return content


def read_json_array(path: Path, limit_bytes: int) -> list[Any]:
    """Read a file that holds one JSON array.

    Raises:
        ModelNotFoundError: nothing is there.
        ModelFormatError: it is larger than the limit, no JSON array, or repeats a key.
    """
    content = _read_json(path, limit_bytes)
    if not isinstance(content, list):
        raise ModelFormatError(f"{path}: must hold one JSON array.")
    return content


def _read_json(path: Path, limit_bytes: int) -> Any:
    source = SourceFile(path)
    try:
        if source.size > limit_bytes:
            raise ModelFormatError(f"{path}: has {source.size} bytes, above {limit_bytes}.")
        text = source.read(0, source.size, "the file").tobytes()
    finally:
        source.close()
    # Each opens an object of Python's, which takes far more memory and time than its one byte.
    if text.count(b"[") + text.count(b"{") > _MAX_CONTAINERS:
        raise ModelFormatError(f"{path}: holds more than {_MAX_CONTAINERS} lists and objects.")
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise ModelFormatError(f"{path}: not valid JSON: {reason}.") from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        ((repeated, _),) = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"key {repeated!r} appears twice in one object")
    return content
