"""Tokenize and detokenize: not OpenAI's, but what evaluation harnesses ask of such a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.core.messages import Message
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.fields import read_fields
from yearling.wire.openai.messages import read_messages

__all__ = [
    "DetokenizeBody",
    "TokenizeBody",
    "TokenizeRequest",
    "parse_detokenize_request",
    "parse_tokenize_request",
]


class TokenizeBody(BaseModel):
    """Fields of a tokenize request: `prompt` or `messages`, not both."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    prompt: str | None = Field(default=None, description="Text to tokenize.")
    messages: list[Any] | None = Field(default=None, description="Conversation to render.")
    add_special_tokens: bool = Field(default=True, description="Add what the model starts with.")
    add_generation_prompt: bool = Field(default=True, description="End where an answer starts.")
    return_token_strs: bool = Field(default=False, description="Give the tokens' texts too.")


class DetokenizeBody(BaseModel):
    """Fields of a detokenize request."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    tokens: list[int] = Field(description="Token ids.")


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    """A tokenize request; exactly one of `prompt` and `messages` is set."""

    model: str
    prompt: str | None
    messages: tuple[Message, ...] | None
    adds_special_tokens: bool
    adds_generation_prompt: bool
    has_token_texts: bool


def parse_tokenize_request(body: Mapping[str, Any], limits: RequestLimits) -> TokenizeRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong or unknown, or not exactly one input is given.
    """
    fields = read_fields(TokenizeBody, body, {})
    if (fields.prompt is None) == (fields.messages is None):
        raise RequestError("Give prompt or messages, and not both.", parameter="prompt")
    if fields.messages is not None and len(fields.messages) > limits.messages:
        raise RequestError(
            f"messages holds {len(fields.messages)} entries; {limits.messages} is the limit.",
            parameter="messages",
        )
    return TokenizeRequest(
        model=fields.model,
        prompt=fields.prompt,
        messages=None if fields.messages is None else read_messages(fields.messages),
        adds_special_tokens=fields.add_special_tokens,
        adds_generation_prompt=fields.add_generation_prompt,
        has_token_texts=fields.return_token_strs,
    )


def parse_detokenize_request(body: Mapping[str, Any]) -> DetokenizeBody:
    """Check a request body.

    Raises:
        RequestError: a field is wrong or unknown.
    """
    return read_fields(DetokenizeBody, body, {})
