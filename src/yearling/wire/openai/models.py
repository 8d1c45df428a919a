"""The model list."""

from collections.abc import Iterable
from typing import Any

__all__ = ["model_list", "model_object"]


def model_object(
    name: str, *, created: int, context_tokens: int, parent: str | None = None
) -> dict[str, Any]:
    """One served model; `max_model_len` is the field other servers tell the context window by.

    `parent` is the model that an adapter is of.
    """
    described = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": "yearling",
        "max_model_len": context_tokens,
    }
    return described if parent is None else {**described, "parent": parent}


def model_list(models: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    return {"object": "list", "data": list(models)}
