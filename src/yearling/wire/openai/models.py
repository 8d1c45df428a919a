"""The model list."""

from collections.abc import Iterable
from typing import Any

__all__ = ["model_list", "model_object"]


def model_object(name: str, *, created: int, context_tokens: int) -> dict[str, Any]:
    """One served model; `max_model_len` is the field other servers tell the context window by."""
    return {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "yearling",
        "max_model_len": context_tokens,
    }


def model_list(models: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    return {"object": "list", "data": list(models)}
