"""The model list, as Anthropic has it.

Source: https://docs.anthropic.com/en/api/models-list.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["model_info", "model_page"]

_LAST_SECOND = 253402300799  # of the year 9999; another server may say anything


def model_info(model: Mapping[str, Any]) -> dict[str, Any]:
    """One model, of its OpenAI object.

    >>> model_info({"id": "m", "created": 0, "max_model_len": 512})["created_at"]
    '1970-01-01T00:00:00+00:00'
    """
    created = datetime.fromtimestamp(min(max(model["created"], 0), _LAST_SECOND), UTC)
    return {
        "type": "model",
        "id": model["id"],
        "display_name": model["id"],
        "created_at": created.isoformat(),
        "lifecycle": "active",
        "max_input_tokens": model.get("max_model_len"),
    }


def model_page(models: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer of `/v1/models`: all of them, on one page."""
    data = [model_info(model) for model in models]
    return {
        "data": data,
        "has_more": False,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
    }
