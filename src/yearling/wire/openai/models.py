"""The model list."""

from collections.abc import Iterable
from typing import Any

__all__ = ["model_list", "model_object"]


def model_object(
    name: str,
    *,
    created: int,
    context_tokens: int | None,
    parent: str | None = None,
    owner: str = "yearling",
) -> dict[str, Any]:
    """One served model.

    Args:
        name: As clients call it.
        created: Seconds since 1970.
        context_tokens: Its context window, in the field that other servers tell it by; None where
            nobody knows.
        parent: The model that an adapter is of.
        owner: Who computes.
    """
    described: dict[str, Any] = {
        "id": name,
        "object": "model",
        "created": created,
        "owned_by": owner,
    }
    if context_tokens is not None:
        described["max_model_len"] = context_tokens
    return described if parent is None else {**described, "parent": parent}


def model_list(models: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The answer of `/v1/models`."""
    return {"object": "list", "data": list(models)}
