"""Chat completions: from a request body to messages and sampling, and answers back.

Source: https://platform.openai.com/docs/api-reference/chat; every field of the request is in
`ChatBody` (honoured) or in `REFUSED_CHAT_FIELDS` (refused by name).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from yearling.core.errors import RequestError
from yearling.core.messages import Message, parse_messages
from yearling.serving.request import FinishReason, SamplingParams, Usage
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.fields import REFUSED_CHAT_FIELDS, read_fields
from yearling.wire.openai.generation import (
    AnswerHead,
    GenerationBody,
    check_choices,
    finish_name,
    sampling_params,
    usage_object,
)
from yearling.wire.openai.guides import ResponseFormat, guide_of

__all__ = [
    "ChatAnswer",
    "ChatBody",
    "ChatRequest",
    "chat_completion",
    "content_chunk",
    "finish_chunk",
    "parse_chat_request",
    "role_chunk",
    "usage_chunk",
]

_CHUNK = "chat.completion.chunk"


class ChatBody(GenerationBody):
    """The fields of a chat completion request that are honoured."""

    messages: list[Any] = Field(description="The conversation so far.")
    logprobs: bool | None = Field(default=None, description="Report log-probabilities.")
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives reported per token."
    )
    max_completion_tokens: int | None = Field(
        default=None, description="The newer name of max_tokens."
    )
    prompt_cache_key: str | None = Field(
        default=None, max_length=256, description="Prompts share cached blocks under equal keys."
    )
    response_format: ResponseFormat | None = Field(
        default=None, description="Text, any JSON object, or JSON of a schema."
    )
    safety_identifier: str | None = Field(
        default=None, max_length=256, description="Names the end user in the server's log."
    )


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat completion request in internal terms.

    Attributes:
        num_choices: Independent answers wanted.
        cache_key: Narrows which requests share cached blocks; empty shares within the account.
        user: Whom the caller acts for, for the log.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    num_choices: int
    is_streamed: bool
    has_usage_chunk: bool
    cache_key: str
    user: str | None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One finished choice; `logprobs` is the ready wire object or None."""

    text: str
    finish_reason: FinishReason
    logprobs: Mapping[str, Any] | None = None


def parse_chat_request(body: Mapping[str, Any], limits: RequestLimits) -> ChatRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(ChatBody, body, REFUSED_CHAT_FIELDS)
    if len(fields.messages) > limits.messages:
        raise RequestError(
            f"messages holds {len(fields.messages)} entries; {limits.messages} is the limit.",
            parameter="messages",
        )
    return ChatRequest(
        model=fields.model,
        messages=parse_messages(fields.messages),
        num_choices=check_choices(fields, limits),
        sampling=_sampling(fields, limits),
        is_streamed=bool(fields.stream),
        has_usage_chunk=bool(fields.stream_options and fields.stream_options.include_usage),
        cache_key=fields.prompt_cache_key or "",
        user=fields.safety_identifier or fields.user,
    )


def _sampling(fields: ChatBody, limits: RequestLimits) -> SamplingParams:
    if fields.top_logprobs is not None and not fields.logprobs:
        raise RequestError(
            "top_logprobs is set, but logprobs is not true.", parameter="top_logprobs"
        )
    longest = fields.max_tokens
    if fields.max_completion_tokens is not None:
        longest = fields.max_completion_tokens
        if longest < 1:
            raise RequestError(
                f"max_completion_tokens is {longest}; it must be at least 1.",
                parameter="max_completion_tokens",
            )
        if fields.max_tokens not in (None, longest):
            raise RequestError(
                f"max_tokens is {fields.max_tokens} and max_completion_tokens is {longest}; "
                "they mean the same: send one.",
                parameter="max_tokens",
            )
    logprobs = (fields.top_logprobs or 0) if fields.logprobs else None
    guide = guide_of(fields, fields.response_format)
    return sampling_params(fields, limits, max_tokens=longest, logprobs=logprobs, guide=guide)


def chat_completion(
    head: AnswerHead, answers: Sequence[ChatAnswer], usage: Usage
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": answer.logprobs,
            "finish_reason": finish_name(answer.finish_reason),
        }
        for index, answer in enumerate(answers)
    ]
    return head.body("chat.completion", choices) | {"usage": usage_object(usage)}


def role_chunk(head: AnswerHead, index: int) -> dict[str, Any]:
    """The first chunk of a choice: the only one that carries the role."""
    return head.chunk(_CHUNK, [_choice(index, {"role": "assistant", "content": ""})])


def content_chunk(
    head: AnswerHead, index: int, text: str, logprobs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A piece of the answer's text."""
    return head.chunk(_CHUNK, [_choice(index, {"content": text}, logprobs)])


def finish_chunk(head: AnswerHead, index: int, reason: FinishReason) -> dict[str, Any]:
    """The last chunk of a choice: an empty delta and why the answer ended."""
    return head.chunk(_CHUNK, [_choice(index, {}) | {"finish_reason": finish_name(reason)}])


def usage_chunk(head: AnswerHead, usage: Usage) -> dict[str, Any]:
    """The chunk after all choices, sent when `stream_options.include_usage` asked for it."""
    return head.chunk(_CHUNK, [], usage)


def _choice(
    index: int, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
