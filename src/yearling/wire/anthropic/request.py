"""A request for a message, or for the tokens of one, put in the internal terms of a chat.

Source: https://docs.anthropic.com/en/api/messages and messages-count-tokens; every field is in
`MessagesBody` or `ConversationBody` (honoured), or in `REFUSED_FIELDS` (refused by name).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError, UnsupportedError
from yearling.core.messages import ContentPart, Message, ToolCall
from yearling.serving.request import SamplingParams
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.chat import ChatRequest
from yearling.wire.openai.fields import (
    RefusedField,
    read_fields,
    validated,
    validated_as,
    validated_at,
)
from yearling.wire.openai.tools import NamedTool, ToolUse, checked_tool, tool_use

__all__ = [
    "REFUSED_FIELDS",
    "Conversation",
    "ConversationBody",
    "MessagesBody",
    "parse_count_request",
    "parse_messages_request",
]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)

REFUSED_FIELDS: Mapping[str, RefusedField] = {
    "container": RefusedField("there are no containers here"),
    "context_management": RefusedField("nothing is taken out of a conversation here"),
    "diagnostics": RefusedField("the server's metrics and log tell of requests"),
    "inference_geo": RefusedField("the server runs where it is"),
    "mcp_servers": RefusedField("the server calls no other server"),
    "output_config": RefusedField("use response_format at /v1/chat/completions", ({},)),
    "output_format": RefusedField("use response_format at /v1/chat/completions"),
    "service_tier": RefusedField("there is one tier", ("auto", "standard_only")),
    "speed": RefusedField("there is one speed", ("standard",)),
    "thinking": RefusedField("no model here thinks before it answers", ({"type": "disabled"},)),
    "user_profile_id": RefusedField("use metadata.user_id"),
    "workspace_id": RefusedField("there are no workspaces here"),
}


class _CacheControl(BaseModel):
    model_config = _STRICT

    type: Literal["ephemeral"] = Field(description="Prefixes are always cached.")
    ttl: Literal["5m", "1h"] | None = Field(default=None, description="They stay while they fit.")


class _TextBlock(BaseModel):
    model_config = _STRICT

    type: Literal["text"] = Field(description="Of the block.")
    text: str = Field(description="What is said.")
    cache_control: _CacheControl | None = Field(default=None, description="Asks nothing here.")
    citations: None = Field(default=None, description="Models here cite nothing.")


class _Caller(BaseModel):
    model_config = _STRICT

    type: Literal["direct"] = Field(description="No program of a server's called.")


class _ToolUseBlock(BaseModel):
    model_config = _STRICT

    type: Literal["tool_use"] = Field(description="Of the block.")
    id: str = Field(min_length=1, max_length=256, description="By which a result names it.")
    name: str = Field(description="Of the tool.")
    input: dict[str, Any] = Field(description="Its arguments.")
    caller: _Caller | None = Field(default=None, description="The model itself.")
    cache_control: _CacheControl | None = Field(default=None, description="Asks nothing here.")


class _ToolResultBlock(BaseModel):
    model_config = _STRICT

    type: Literal["tool_result"] = Field(description="Of the block.")
    tool_use_id: str = Field(description="Of the call.")
    content: str | list[_TextBlock] | None = Field(default=None, description="What came back.")
    is_error: bool | None = Field(default=None, description="Whether the call failed.")
    cache_control: _CacheControl | None = Field(default=None, description="Asks nothing here.")


class _Turn(BaseModel):
    model_config = _STRICT

    role: Literal["user", "assistant"] = Field(description="Who speaks.")
    content: str | list[dict[str, Any]] = Field(description="A text, or blocks.")


class _Tool(BaseModel):
    model_config = _STRICT

    name: str = Field(pattern=r"^[a-zA-Z0-9_-]{1,128}$", description="What calls name it.")
    description: str | None = Field(default=None, description="What it does, for the model.")
    input_schema: dict[str, Any] = Field(description="JSON Schema of its arguments.")
    type: Literal["custom"] | None = Field(default=None, description="Only tools of the client's.")
    strict: bool | None = Field(default=None, description="Refuse keywords that cannot be kept.")
    cache_control: _CacheControl | None = Field(default=None, description="Asks nothing here.")


class _ToolChoice(BaseModel):
    model_config = _STRICT

    type: Literal["auto", "any", "tool", "none"] = Field(description="What must be called.")
    name: str | None = Field(default=None, description="Of the tool, with type tool.")
    disable_parallel_tool_use: bool | None = Field(default=None, description="One call at most.")


class _Metadata(BaseModel):
    model_config = _STRICT

    user_id: str | None = Field(default=None, max_length=256, description="Of the end user.")


class ConversationBody(BaseModel):
    """The fields of a count of tokens that are honoured: those that decide what a model reads."""

    model_config = _STRICT

    model: str = Field(min_length=1, max_length=256, description="Name as /v1/models lists it.")
    messages: list[_Turn] = Field(min_length=1, description="The conversation so far.")
    system: str | list[_TextBlock] | None = Field(default=None, description="What comes before it.")
    tools: list[_Tool] | None = Field(default=None, description="Functions that may be called.")
    tool_choice: _ToolChoice | None = Field(default=None, description="What must be called.")
    cache_control: _CacheControl | None = Field(default=None, description="Asks nothing here.")


class MessagesBody(ConversationBody):
    """The fields of a message request that are honoured."""

    max_tokens: int = Field(ge=1, description="New tokens at most.")
    stop_sequences: list[str] | None = Field(default=None, description="Texts that end the answer.")
    stream: bool | None = Field(default=None, description="Send the answer piece by piece.")
    temperature: float | None = Field(default=None, ge=0, le=1, description="0 is greedy.")
    top_p: float | None = Field(default=None, gt=0, le=1, description="Mass kept.")
    top_k: int | None = Field(default=None, ge=0, description="Keep the k likeliest.")
    metadata: _Metadata | None = Field(default=None, description="Whom the caller acts for.")


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a model reads before it answers.

    Attributes:
        model: Its name.
        messages: The system's and the turns.
        tools: What the answer may do with tools; None for nothing.
    """

    model: str
    messages: tuple[Message, ...]
    tools: ToolUse | None


def parse_count_request(body: Mapping[str, Any], limits: RequestLimits) -> Conversation:
    """Check the body of a count of tokens and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    return _conversation(read_fields(ConversationBody, body, REFUSED_FIELDS), limits)


def parse_messages_request(body: Mapping[str, Any], limits: RequestLimits) -> ChatRequest:
    """Check a request body and put it in internal terms.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(MessagesBody, body, REFUSED_FIELDS)
    conversation = _conversation(fields, limits)
    return ChatRequest(
        model=conversation.model,
        messages=conversation.messages,
        sampling=_sampling(fields, limits, conversation.tools),
        num_choices=1,
        is_streamed=bool(fields.stream),
        has_usage_chunk=False,
        cache_key="",
        user=None if fields.metadata is None else fields.metadata.user_id,
        tools=conversation.tools,
    )


def _conversation(fields: ConversationBody, limits: RequestLimits) -> Conversation:
    limits.check_messages(fields.messages)
    if fields.messages[-1].role == "assistant":
        name = f"messages[{len(fields.messages) - 1}]"
        raise UnsupportedError(
            f"{name}: the last turn must be the user's; the assistant's is not continued here.",
            parameter=name,
        )
    messages = (*_system(fields.system), *_messages(fields.messages))
    return Conversation(fields.model, messages, _tools(fields))


def _sampling(fields: MessagesBody, limits: RequestLimits, tools: ToolUse | None) -> SamplingParams:
    stops = fields.stop_sequences or []
    limits.check_stops(stops, "stop_sequences")
    wanted = {
        "max_tokens": fields.max_tokens,
        "temperature": fields.temperature,
        "top_p": fields.top_p,
        "top_k": fields.top_k,
        "stop": tuple(stops) or None,
        "guide": None if tools is None else tools.guide,
    }
    return validated_as(SamplingParams, wanted, {"stop": "stop_sequences"})


def _tools(fields: ConversationBody) -> ToolUse | None:
    choice = fields.tool_choice or _ToolChoice(type="auto")
    if (choice.type == "tool") != (choice.name is not None):
        raise RequestError(
            "tool_choice has a name where its type is tool, and only there.",
            parameter="tool_choice",
        )
    tools = [
        checked_tool(
            tool.name,
            description=tool.description,
            parameters=tool.input_schema,
            strict=tool.strict,
        )
        for tool in fields.tools or ()
    ]
    wanted: Literal["none", "auto", "required"] | NamedTool
    if choice.name is not None:
        wanted = validated(NamedTool, {"type": "function", "function": {"name": choice.name}})
    else:
        wanted = {"auto": "auto", "any": "required", "none": "none"}[choice.type]  # type: ignore[assignment]
    return tool_use(tools, wanted, is_parallel=not choice.disable_parallel_tool_use)


def _system(given: str | Sequence[_TextBlock] | None) -> list[Message]:
    if not given:
        return []
    texts = [given] if isinstance(given, str) else [block.text for block in given]
    return [Message("system", tuple(ContentPart(text) for text in texts))]


def _messages(turns: Sequence[_Turn]) -> list[Message]:
    messages: list[Message] = []
    for number, turn in enumerate(turns):
        if isinstance(turn.content, str):
            messages.append(Message(turn.role, (ContentPart(turn.content),)))
        else:
            messages += _from_blocks(turn.role, turn.content, f"messages[{number}].content")
    return messages


def _from_blocks(
    role: Literal["user", "assistant"], blocks: Sequence[Mapping[str, Any]], where: str
) -> list[Message]:
    """Results of tools become turns of their own, before what the user says beside them."""
    texts: list[ContentPart] = []
    calls: list[ToolCall] = []
    results: list[Message] = []
    for number, raw in enumerate(blocks):
        here, kind = f"{where}[{number}]", raw.get("type")
        if kind == "text":
            texts.append(ContentPart(validated_at(_TextBlock, raw, here).text))
        elif kind == "tool_use" and role == "assistant":
            use = validated_at(_ToolUseBlock, raw, here)
            calls.append(ToolCall(use.id, use.name, json.dumps(use.input, ensure_ascii=False)))
        elif kind == "tool_result" and role == "user":
            results.append(_result(validated_at(_ToolResultBlock, raw, here)))
        else:
            raise UnsupportedError(
                f"{here}.type is {str(kind)[:40]!r}; a turn of the {role} holds text and "
                f"{'tool_use' if role == 'assistant' else 'tool_result'} here.",
                parameter=f"{here}.type",
            )
    own = [Message(role, tuple(texts), tool_calls=tuple(calls))] if texts or calls else []
    if not own and not results:
        raise RequestError(f"{where} is empty.", parameter=where)
    return [*results, *own]


def _result(block: _ToolResultBlock) -> Message:
    content = block.content or ""
    text = content if isinstance(content, str) else "".join(part.text for part in content)
    if block.is_error:
        text = f"Error: {text}"
    return Message("tool", (ContentPart(text),), tool_call_id=block.tool_use_id)
