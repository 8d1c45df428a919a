"""A request for a response, put in the internal terms of a chat.

Source: https://platform.openai.com/docs/api-reference/responses; every field is in `ResponseBody`
(honoured) or in `REFUSED_RESPONSE_FIELDS` (refused by name).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError, UnsupportedError
from yearling.core.messages import ContentPart, Message, ToolCall
from yearling.serving.request import Guide, SamplingParams
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.chat import ChatRequest
from yearling.wire.openai.fields import (
    RefusedField,
    read_fields,
    validated,
    validated_as,
    validated_at,
)
from yearling.wire.openai.guides import json_guide
from yearling.wire.openai.tools import NamedTool, Tool, ToolUse, tool_use

__all__ = [
    "REFUSED_RESPONSE_FIELDS",
    "ResponseBody",
    "ResponseRequest",
    "parse_response_request",
]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_MAX_METADATA = 16  # this and the next two are OpenAI's
_MetadataKey = Annotated[str, Field(max_length=64)]
_MetadataValue = Annotated[str, Field(max_length=512)]
_LOGPROBS = "message.output_text.logprobs"

REFUSED_RESPONSE_FIELDS: Mapping[str, RefusedField] = {
    "access_programs": RefusedField("there are none here"),
    "background": RefusedField("a response is made while its request waits", (False,)),
    "background_options": RefusedField("a response is made while its request waits", ({},)),
    "context_management": RefusedField("nothing is taken out of a conversation here", ([],)),
    "conversation": RefusedField("use previous_response_id"),
    "image": RefusedField("no model here sees", ({},)),
    "max_tool_calls": RefusedField("it counts calls of tools that a server runs"),
    "moderation": RefusedField("there is no moderation model"),
    "prompt": RefusedField("the server keeps no prompts"),
    "prompt_cache_options": RefusedField(
        "prefixes are always cached, implicitly", ({}, {"mode": "implicit"})
    ),
    "prompt_cache_retention": RefusedField("cached prefixes live in memory only", ("in_memory",)),
    "reasoning": RefusedField(
        "no model here reasons before it answers",
        ({}, {"effort": "none"}, {"effort": None}, {"effort": None, "summary": None}),
    ),
    "service_tier": RefusedField("there is one tier", ("auto", "default")),
    "truncation": RefusedField("nothing is taken out of a conversation here", ("disabled",)),
}


class _InputText(BaseModel):
    model_config = _STRICT

    type: Literal["input_text"] = Field(description="Of the part.")
    text: str = Field(description="What is said.")


class _OutputText(BaseModel):
    model_config = _STRICT

    type: Literal["output_text"] = Field(description="Of the part.")
    text: str = Field(description="What was said.")
    annotations: list[Any] | None = Field(default=None, max_length=0, description="None here.")
    logprobs: list[Any] | None = Field(default=None, description="As they were sent.")


class _Item(BaseModel):
    """What items of ours carry, and clients send back."""

    model_config = _STRICT

    id: str | None = Field(default=None, description="As it was sent.")
    status: str | None = Field(default=None, description="As it was sent.")


class _MessageItem(_Item):
    type: Literal["message"] = Field(default="message", description="Of the item.")
    role: Literal["user", "assistant", "system", "developer"] = Field(description="Who speaks.")
    content: str | list[dict[str, Any]] = Field(description="A text, or parts.")
    phase: None = Field(default=None, description="Answers here have one phase.")


class _CallItem(_Item):
    type: Literal["function_call"] = Field(description="Of the item.")
    call_id: str = Field(min_length=1, max_length=256, description="By which a result names it.")
    name: str = Field(description="Of the function.")
    arguments: str = Field(description="JSON.")


class _ResultItem(_Item):
    type: Literal["function_call_output"] = Field(description="Of the item.")
    call_id: str = Field(min_length=1, max_length=256, description="Of the call.")
    output: str | list[_InputText] = Field(description="What came back.")


class _Tool(BaseModel):
    model_config = _STRICT

    type: Literal["function"] = Field(description="Functions are the only kind.")
    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$", description="What calls name it.")
    description: str | None = Field(default=None, description="What it does, for the model.")
    parameters: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of its arguments; none takes none."
    )
    strict: bool | None = Field(default=None, description="Refuse keywords that cannot be kept.")

    def as_chat(self) -> dict[str, Any]:
        """The same, as a chat request writes it."""
        return {"type": "function", "function": self.model_dump(exclude={"type"})}


class _ToolChoice(BaseModel):
    model_config = _STRICT

    type: Literal["function"] = Field(description="Of the tool.")
    name: str = Field(description="Of one of the tools.")


class _Format(BaseModel):
    model_config = _STRICT

    type: Literal["text", "json_object", "json_schema"] = Field(description="Of the text.")
    name: str | None = Field(default=None, max_length=64, description="Of what is described.")
    description: str | None = Field(default=None, description="What it is for; models see none.")
    schema_: dict[str, Any] | None = Field(
        default=None, alias="schema", description="JSON Schema, with json_schema only."
    )
    strict: bool | None = Field(default=None, description="Answers hold to it whatever this says.")


class _Text(BaseModel):
    model_config = _STRICT

    format: _Format | None = Field(default=None, description="Any text, JSON, or JSON of a schema.")
    verbosity: Literal["medium"] | None = Field(default=None, description="There is no such dial.")


class _StreamOptions(BaseModel):
    model_config = _STRICT

    include_obfuscation: Literal[False] | None = Field(
        default=None, description="Events are not padded."
    )


class ResponseBody(BaseModel):
    """The fields of a request for a response that are honoured."""

    model_config = _STRICT

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    input: str | list[dict[str, Any]] = Field(description="What the user says, or items.")
    instructions: str | None = Field(default=None, description="A system message for this once.")
    previous_response_id: str | None = Field(
        default=None,
        min_length=1,
        max_length=256,
        description="The response that this one goes on from.",
    )
    store: bool | None = Field(default=None, description="Keep it to be gone on from; true.")
    metadata: dict[_MetadataKey, _MetadataValue] | None = Field(
        default=None, max_length=_MAX_METADATA, description="Kept with the response."
    )
    max_output_tokens: int | None = Field(default=None, ge=1, description="New tokens at most.")
    temperature: float | None = Field(default=None, ge=0, le=2, description="0 is greedy.")
    top_p: float | None = Field(default=None, ge=0, le=1, description="Mass kept.")
    include: list[str] | None = Field(
        default=None, description="What is shown beside the text: message.output_text.logprobs."
    )
    top_logprobs: int | None = Field(
        default=None, ge=0, le=20, description="Alternatives reported per token."
    )
    text: _Text | None = Field(default=None, description="What the text must be.")
    tools: list[_Tool] | None = Field(default=None, description="Functions that may be called.")
    tool_choice: Literal["none", "auto", "required"] | _ToolChoice | None = Field(
        default=None, description="Whether calls may, must or must not be made, or of which tool."
    )
    parallel_tool_calls: bool | None = Field(
        default=None, description="Whether it may call several times; it may."
    )
    stream: bool | None = Field(default=None, description="Send the response piece by piece.")
    stream_options: _StreamOptions | None = Field(default=None, description="With stream only.")
    prompt_cache_key: str | None = Field(
        default=None, max_length=256, description="Prompts share cached blocks under equal keys."
    )
    safety_identifier: str | None = Field(
        default=None, max_length=256, description="Names the end user in the server's log."
    )
    user: str | None = Field(
        default=None, max_length=256, description="Names the end user in the server's log."
    )


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A request for a response in internal terms.

    Attributes:
        chat: What the model is asked, without what came before `previous_id`.
        instructions: Come first in the conversation, and are not part of what is kept of it.
        is_stored: Whether the response is kept.
        echo: Fields of the request that the response repeats.
    """

    chat: ChatRequest
    instructions: str | None
    previous_id: str | None
    is_stored: bool
    echo: Mapping[str, Any]

    def after(self, before: Sequence[Message], limits: RequestLimits) -> ChatRequest:
        """The whole conversation: instructions, what came before, and what is asked now.

        Raises:
            RequestError: it has too many messages.
        """
        first = [] if self.instructions is None else [_said("system", self.instructions)]
        messages = (*first, *before, *self.chat.messages)
        limits.check_messages(messages, "input")
        return replace(self.chat, messages=messages)


def parse_response_request(body: Mapping[str, Any], limits: RequestLimits) -> ResponseRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(ResponseBody, body, REFUSED_RESPONSE_FIELDS)
    if fields.stream_options is not None and not fields.stream:
        raise RequestError(
            "stream_options is set, but stream is not true.", parameter="stream_options"
        )
    for wanted in fields.include or ():
        if wanted != _LOGPROBS:
            raise UnsupportedError(
                f"include asks for {wanted[:64]!r}; there is {_LOGPROBS} alone here. Leave it out.",
                parameter="include",
            )
    messages = _messages(fields.input, limits)
    tools = _tools(fields)
    guide = _guide(fields.text)
    if tools is not None and guide is not None:
        raise UnsupportedError(
            "text.format and tools both say what the answer must be: send one, or "
            'tool_choice="none".',
            parameter="text.format",
        )
    sampling = _sampling(fields, guide if tools is None else tools.guide)
    if tools is not None and sampling.logprobs is not None:
        raise UnsupportedError(
            "include asks for log-probabilities of a text, and tools may make calls of it: send "
            'one, or tool_choice="none".',
            parameter="include",
        )
    chat = ChatRequest(
        model=fields.model,
        messages=messages,
        sampling=sampling,
        num_choices=1,
        is_streamed=bool(fields.stream),
        has_usage_chunk=False,
        cache_key=fields.prompt_cache_key or "",
        user=fields.safety_identifier or fields.user,
        tools=tools,
    )
    return ResponseRequest(
        chat=chat,
        instructions=fields.instructions,
        previous_id=fields.previous_response_id,
        is_stored=fields.store is not False,
        echo=_echo(fields, sampling),
    )


_SAMPLING_NAMES = {"max_tokens": "max_output_tokens", "logprobs": "top_logprobs"}


def _sampling(fields: ResponseBody, guide: Guide | None) -> SamplingParams:
    has_logprobs = bool(fields.include) or fields.top_logprobs is not None
    wanted = {
        "max_tokens": fields.max_output_tokens,
        "temperature": fields.temperature,
        "top_p": 1e-9 if fields.top_p == 0 else fields.top_p,
        "logprobs": (fields.top_logprobs or 0) if has_logprobs else None,
        "guide": guide,
    }
    return validated_as(SamplingParams, wanted, _SAMPLING_NAMES)


def _guide(text: _Text | None) -> Guide | None:
    wanted = None if text is None else text.format
    if wanted is None:
        return None
    is_described = wanted.type == "json_schema"
    if not is_described and (wanted.name, wanted.description, wanted.strict) != (None,) * 3:
        raise RequestError(
            f"text.format has the type {wanted.type}, which has no name, description or strict.",
            parameter="text.format",
        )
    if is_described != (wanted.schema_ is not None):
        raise RequestError(
            "text.format has a schema where its type is json_schema, and only there.",
            parameter="text.format.schema",
        )
    if is_described and not wanted.name:
        raise RequestError("text.format.name is required.", parameter="text.format.name")
    return None if wanted.type == "text" else json_guide(wanted.schema_, "text.format.schema")


def _tools(fields: ResponseBody) -> ToolUse | None:
    choice = fields.tool_choice
    named: Literal["none", "auto", "required"] | NamedTool | None
    if isinstance(choice, _ToolChoice):
        named = validated(NamedTool, {"type": "function", "function": {"name": choice.name}})
    else:
        named = choice
    tools = [validated(Tool, tool.as_chat()) for tool in fields.tools or ()]
    return tool_use(tools, named, is_parallel=fields.parallel_tool_calls is not False)


def _echo(fields: ResponseBody, sampling: SamplingParams) -> dict[str, Any]:
    choice = fields.tool_choice or "auto"
    wanted = None if fields.text is None else fields.text.format
    shown = {"type": "text"}
    if wanted is not None:
        shown = wanted.model_dump(by_alias=True, exclude_none=True)
    return {
        "instructions": fields.instructions,
        "max_output_tokens": fields.max_output_tokens,
        "metadata": fields.metadata or {},
        "parallel_tool_calls": fields.parallel_tool_calls is not False,
        "previous_response_id": fields.previous_response_id,
        "prompt_cache_key": fields.prompt_cache_key,
        "safety_identifier": fields.safety_identifier,
        "store": fields.store is not False,
        "temperature": sampling.temperature,
        "text": {"format": shown},
        "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
        "tools": [tool.model_dump() for tool in fields.tools or ()],
        "top_logprobs": fields.top_logprobs or 0,
        "top_p": sampling.top_p if fields.top_p is None else fields.top_p,
        "truncation": "disabled",
        "user": fields.user,
    }


def _messages(
    given: str | Sequence[Mapping[str, Any]], limits: RequestLimits
) -> tuple[Message, ...]:
    """Messages of the items; calls join the assistant's turn that they follow."""
    if isinstance(given, str):
        return (_said("user", given),)
    if not given:
        raise RequestError("input is empty: send at least one item.", parameter="input")
    limits.check_messages(given, "input")
    messages: list[Message] = []
    for number, raw in enumerate(given):
        message = _message(raw, f"input[{number}]")
        last = messages[-1] if messages else None
        if message.tool_calls and last is not None and last.role == "assistant":
            calls = (*last.tool_calls, *message.tool_calls)
            messages[-1] = replace(last, tool_calls=calls)
        else:
            messages.append(message)
    return tuple(messages)


def _message(raw: Mapping[str, Any], where: str) -> Message:
    kind = raw.get("type") or "message"
    if kind == "message":
        item = validated_at(_MessageItem, raw, where)
        return Message(item.role, _content(item, f"{where}.content"))
    if kind == "function_call":
        call = validated_at(_CallItem, raw, where)
        return Message("assistant", tool_calls=(ToolCall(call.call_id, call.name, call.arguments),))
    if kind == "function_call_output":
        result = validated_at(_ResultItem, raw, where)
        output = result.output
        text = output if isinstance(output, str) else "".join(part.text for part in output)
        return Message("tool", (ContentPart(text),), tool_call_id=result.call_id)
    raise UnsupportedError(
        f"{where}.type is {str(kind)[:40]!r}; items are message, function_call and "
        "function_call_output here.",
        parameter=f"{where}.type",
    )


def _content(item: _MessageItem, where: str) -> tuple[ContentPart, ...]:
    if isinstance(item.content, str):
        return (ContentPart(item.content),)
    part: type[_OutputText | _InputText] = _OutputText if item.role == "assistant" else _InputText
    return tuple(
        ContentPart(validated_at(part, raw, f"{where}[{number}]").text)
        for number, raw in enumerate(item.content)
    )


def _said(role: Literal["system", "user"], text: str) -> Message:
    return Message(role, (ContentPart(text),))
