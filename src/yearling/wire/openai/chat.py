"""Chat completions: from a request body to messages and sampling, and answers back.

Source: https://platform.openai.com/docs/api-reference/chat; every field of the request is in
`ChatBody` (honoured) or in `REFUSED_CHAT_FIELDS` (refused by name).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from yearling.core.errors import RequestError, UnsupportedError
from yearling.core.messages import Message
from yearling.serving.request import FinishReason, Guide, SamplingParams, Usage
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.beams import Beams, beams_of
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
from yearling.wire.openai.messages import read_messages
from yearling.wire.openai.tools import NamedTool, Tool, ToolUse, tool_use

__all__ = [
    "ChatAnswer",
    "ChatBody",
    "ChatRequest",
    "call_chunk",
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
    tools: list[Tool] | None = Field(default=None, description="Functions that may be called.")
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = Field(
        default=None, description="Whether calls may, must or must not be made, or of which tool."
    )
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether an answer may call several times; it may."
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
        tools: What the answer may do with tools; None for nothing.
        beams: How answers are searched for, instead of drawn.
    """

    model: str
    messages: tuple[Message, ...]
    sampling: SamplingParams
    num_choices: int
    is_streamed: bool
    has_usage_chunk: bool
    cache_key: str
    user: str | None
    tools: ToolUse | None = None
    beams: Beams | None = None


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """One finished choice; `calls` and `logprobs` are ready wire objects.

    `is_calling` says that it ended by itself, behind whole calls.
    """

    text: str
    finish_reason: FinishReason
    logprobs: Mapping[str, Any] | None = None
    calls: Sequence[Mapping[str, Any]] = ()
    is_calling: bool = False


def parse_chat_request(body: Mapping[str, Any], limits: RequestLimits) -> ChatRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(ChatBody, body, REFUSED_CHAT_FIELDS)
    limits.check_messages(fields.messages)
    tools = tool_use(
        fields.tools, fields.tool_choice, is_parallel=fields.parallel_tool_calls is not False
    )
    guide = guide_of(fields, fields.response_format)
    if tools is not None and guide is not None:
        raise UnsupportedError(
            f"{guide.field} and tools both say what the answer must be: send one, or "
            'tool_choice="none".',
            parameter=guide.field,
        )
    sampling = _sampling(fields, limits, guide if tools is None else tools.guide)
    num_choices = check_choices(fields, limits)
    return ChatRequest(
        model=fields.model,
        messages=read_messages(fields.messages),
        num_choices=num_choices,
        sampling=sampling,
        is_streamed=bool(fields.stream),
        has_usage_chunk=bool(fields.stream_options and fields.stream_options.include_usage),
        cache_key=fields.prompt_cache_key or "",
        user=fields.safety_identifier or fields.user,
        tools=tools,
        beams=beams_of(fields, num_choices),
    )


def _sampling(fields: ChatBody, limits: RequestLimits, guide: Guide | None) -> SamplingParams:
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
    return sampling_params(fields, limits, max_tokens=longest, logprobs=logprobs, guide=guide)


def chat_completion(
    head: AnswerHead, answers: Sequence[ChatAnswer], usage: Usage
) -> dict[str, Any]:
    """The body of an answer that is not streamed."""
    choices = [
        {
            "index": index,
            "message": _message(answer),
            "logprobs": answer.logprobs,
            "finish_reason": _reason(answer.finish_reason, is_calling=answer.is_calling),
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


def call_chunk(
    head: AnswerHead, index: int, call: Mapping[str, Any], logprobs: Mapping[str, Any] | None
) -> dict[str, Any]:
    """A call's first piece, or more of its arguments."""
    return head.chunk(_CHUNK, [_choice(index, {"tool_calls": [call]}, logprobs)])


def finish_chunk(
    head: AnswerHead, index: int, reason: FinishReason, *, is_calling: bool = False
) -> dict[str, Any]:
    """The last chunk of a choice: an empty delta and why the answer ended."""
    ending = {"finish_reason": _reason(reason, is_calling=is_calling)}
    return head.chunk(_CHUNK, [_choice(index, {}) | ending])


def usage_chunk(head: AnswerHead, usage: Usage) -> dict[str, Any]:
    """The chunk after all choices, sent when `stream_options.include_usage` asked for it."""
    return head.chunk(_CHUNK, [], usage)


def _message(answer: ChatAnswer) -> dict[str, Any]:
    text = answer.text or None if answer.calls else answer.text
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    return message | {"tool_calls": answer.calls} if answer.calls else message


def _reason(reason: FinishReason, *, is_calling: bool) -> str:
    return "tool_calls" if is_calling and reason == "stop" else finish_name(reason)


def _choice(
    index: int, delta: Mapping[str, Any], logprobs: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}
