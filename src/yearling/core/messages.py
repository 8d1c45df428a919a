"""Chat messages as every layer passes them: role, content parts, tool calls."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yearling.core.errors import RequestError

__all__ = ["ContentPart", "Message", "Role", "ToolCall", "parse_messages"]

Role = Literal["system", "developer", "user", "assistant", "tool"]
_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ContentPart:
    """One part of a message's content; only text today, media parts join with their readers."""

    text: str
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function call that an assistant asked for; `arguments` is a JSON string, as OpenAI's."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: tuple[ContentPart, ...] = ()
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of all parts, joined without a separator."""
        return "".join(part.text for part in self.content)


def parse_messages(messages: Sequence[Mapping[str, Any] | Message]) -> tuple[Message, ...]:
    """Check OpenAI-style dictionaries and turn them into messages.

    Content may be a string, a list of text parts, or null (an assistant turn that only
    calls tools).

    Raises:
        RequestError: a message has an unknown role, field or content part; `parameter`
            names it, for example `messages[2].content[0].type`.

    >>> parse_messages([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}])[0].text
    'Hi'
    """
    if not messages:
        raise RequestError("messages is empty: send at least one message.", parameter="messages")
    return tuple(
        message if isinstance(message, Message) else _parse_message(message, f"messages[{index}]")
        for index, message in enumerate(messages)
    )


def _parse_message(raw: Mapping[str, Any], where: str) -> Message:
    if not isinstance(raw, Mapping):
        raise RequestError(f"{where} must be an object, not {type(raw).__name__}.", parameter=where)
    known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}
    for field in raw:
        if field not in known:
            raise RequestError(
                f"{where}.{field} is not a field of a message; known: {sorted(known)}.",
                parameter=f"{where}.{field}",
            )
    role = raw.get("role")
    if role not in _ROLES:
        raise RequestError(
            f"{where}.role is {role!r}; it must be one of {', '.join(_ROLES)}.",
            parameter=f"{where}.role",
        )
    tool_calls = tuple(
        _parse_tool_call(call, f"{where}.tool_calls[{index}]")
        for index, call in enumerate(raw.get("tool_calls") or ())
    )
    if raw.get("content") is None and role != "assistant":
        raise RequestError(
            f"{where}.content is missing; only an assistant message may have none.",
            parameter=f"{where}.content",
        )
    return Message(
        role=role,
        content=_parse_content(raw.get("content"), f"{where}.content"),
        name=raw.get("name"),
        tool_calls=tool_calls,
        tool_call_id=raw.get("tool_call_id"),
    )


def _parse_content(raw: object, where: str) -> tuple[ContentPart, ...]:
    if raw is None:
        return ()
    if isinstance(raw, str):
        return (ContentPart(raw),)
    if not isinstance(raw, Sequence):
        raise RequestError(f"{where} must be a string or a list of parts.", parameter=where)
    parts = []
    for index, part in enumerate(raw):
        here = f"{where}[{index}]"
        if not isinstance(part, Mapping) or part.get("type") != "text":
            kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
            raise RequestError(
                f"{here}.type is {kind!r}; this model reads only parts of type 'text'.",
                parameter=f"{here}.type",
            )
        if not isinstance(part.get("text"), str):
            raise RequestError(f"{here}.text must be a string.", parameter=f"{here}.text")
        parts.append(ContentPart(part["text"]))
    return tuple(parts)


def _parse_tool_call(raw: Any, where: str) -> ToolCall:
    try:
        function = raw["function"]
        call = ToolCall(id=raw["id"], name=function["name"], arguments=function["arguments"])
    except (KeyError, TypeError) as error:
        raise RequestError(
            f"{where} must have id and function with name and arguments.", parameter=where
        ) from error
    if not all(isinstance(value, str) for value in (call.id, call.name, call.arguments)):
        raise RequestError(f"{where}: id, name and arguments must be strings.", parameter=where)
    return call
