"""Loading and unloading adapters: not OpenAI's, but what vLLM's clients send."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from yearling.wire.openai.fields import read_fields

__all__ = ["LoadLoraBody", "UnloadLoraBody", "parse_load_lora", "parse_unload_lora"]


class LoadLoraBody(BaseModel):
    """Fields of a request to load an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lora_name: str = Field(min_length=1, max_length=256, description="Name it is served under.")
    lora_path: str = Field(
        min_length=1, max_length=4096, description="Folder on the server, in PEFT's format."
    )
    base_model_name: str | None = Field(
        default=None, max_length=256, description="Served model it is for; the first by default."
    )


class UnloadLoraBody(BaseModel):
    """Fields of a request to unload an adapter."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    lora_name: str = Field(min_length=1, max_length=256, description="Name it is served under.")


def parse_load_lora(body: Mapping[str, Any]) -> LoadLoraBody:
    """Check a request body.

    Raises:
        RequestError: a field is wrong or unknown.
    """
    return read_fields(LoadLoraBody, body, {})


def parse_unload_lora(body: Mapping[str, Any]) -> UnloadLoraBody:
    """Check a request body.

    Raises:
        RequestError: a field is wrong or unknown.
    """
    return read_fields(UnloadLoraBody, body, {})
