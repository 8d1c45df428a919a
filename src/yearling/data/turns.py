"""Lists of messages as data sets spell them, made into turns: OpenAI's form and ShareGPT's."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yearling.core.errors import DataError, RequestError
from yearling.core.messages import parse_messages
from yearling.data.columns import Columns, json_list, present
from yearling.data.examples import Turn

__all__ = ["read_tools", "read_turns", "spoken"]

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_FLAGS = ("loss", "train", "weight")
_FIELDS = {"role", "content", "name", "tool_calls", "tool_call_id"}


def spoken(role: str, text: str, *, has_loss: bool | None = None) -> Turn:
    """Make a turn of plain text; an assistant's has loss unless said otherwise."""
    (message,) = parse_messages([{"role": role, "content": text}])
    return Turn(message, role == "assistant" if has_loss is None else has_loss)


def read_turns(raw: Any, column: str, columns: Columns) -> tuple[Turn, ...]:
    """Read a list of messages.

    Args:
        column: Its name, for messages.
        columns: Where fields that nothing reads are noted, as `messages[].timestamp`.
    Raises:
        DataError: it is not a list of messages; the text names the message and its field.
    """
    plain: list[dict[str, Any]] = []
    flags: list[bool | None] = []
    calls = _Calls()
    for index, message in enumerate(json_list(raw, column)):
        where = f"{column}[{index}]"
        if not isinstance(message, Mapping):
            raise DataError(f"{where} must be an object, not {type(message).__name__}.")
        values = present(message)
        flags.append(_take_flag(values, where))
        plain.append(_openai_form(values, where, calls))
        unread = set(values) - _FIELDS - {"from", "value"}
        columns.unused |= {f"{column}[].{name}" for name in unread}
    try:
        messages = parse_messages(plain)
    except RequestError as error:
        raise DataError(str(error).replace("messages", column, 1)) from None
    for index, message in enumerate(messages):
        if message.role == "assistant" and not (message.text.strip() or message.tool_calls):
            raise DataError(f"{column}[{index}].content is empty, and the message calls no tool.")
    pairs = zip(messages, flags, strict=True)
    return tuple(
        Turn(one, one.role == "assistant" if flag is None else flag) for one, flag in pairs
    )


def read_tools(columns: Columns) -> tuple[Mapping[str, Any], ...]:
    """Read the tools of a row, in OpenAI's form or as bare function descriptions.

    Raises:
        DataError: one of them is not an object with a name.
    """
    tools = []
    for index, tool in enumerate(columns.optional_list("tools")):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(f"tools[{index}] must be an object with a function and its name.")
        tools.append(tool if "function" in tool else {"type": "function", "function": tool})
    return tuple(tools)


def _take_flag(values: dict[str, Any], where: str) -> bool | None:
    """Take `loss`, `train` and `weight` out of a message; None where it has none of them."""
    found = {name: values.pop(name) for name in _FLAGS if name in values}
    for name, flag in found.items():
        if flag not in (0, 1):
            raise DataError(f"{where}.{name}={flag!r} must be true or false (weight: 0 or 1).")
    if len({bool(flag) for flag in found.values()}) > 1:
        raise DataError(f"{where} says both yes and no to loss: {found}.")
    return bool(next(iter(found.values()))) if found else None


@dataclass
class _Calls:
    """Tool calls of a conversation, so that those without an id get one, and their answers too."""

    count: int = 0
    waiting: list[str] = field(default_factory=list)

    def ask(self, given: Any) -> str:
        self.count += 1
        self.waiting.append(given if isinstance(given, str) else f"call_{self.count}")
        return self.waiting[-1]

    def answer(self, given: Any) -> Any:
        """Give the id of the call that an answer belongs to; answers without one come in order."""
        named = given or (self.waiting[0] if self.waiting else None)
        if named in self.waiting:
            self.waiting.remove(named)
        return named


def _openai_form(values: dict[str, Any], where: str, calls: _Calls) -> dict[str, Any]:
    """Give a message with OpenAI's names."""
    role = values.get("role", values.get("from"))
    if role is None:
        raise DataError(f"{where} has neither 'role' nor 'from'; it has {sorted(values)}.")
    content = values.get("content", values.get("value"))
    message: dict[str, Any] = {"role": _ROLES.get(role, role), "content": content}
    if role == "function_call":
        message["content"], asked = None, _json_calls(content, where)
    else:
        asked = values.get("tool_calls") or ()
    if asked:
        message["tool_calls"] = _openai_calls(asked, where, calls)
    if message["role"] == "tool":
        message["tool_call_id"] = calls.answer(values.get("tool_call_id"))
    if "name" in values:
        message["name"] = values["name"]
    return message


def _json_calls(content: Any, where: str) -> Sequence[Any]:
    try:
        asked = json.loads(content)
    except (TypeError, ValueError) as error:
        raise DataError(f"{where} is a function call whose text is not JSON: {error}.") from None
    return asked if isinstance(asked, list) else [asked]


def _openai_calls(asked: Any, where: str, calls: _Calls) -> list[dict[str, Any]]:
    written = []
    for index, call in enumerate(json_list(asked, f"{where}.tool_calls")):
        function = call.get("function", call) if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or "name" not in function:
            raise DataError(f"{where}.tool_calls[{index}] must be an object with a name.")
        arguments = function.get("arguments", function.get("parameters", {}))
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        function = {"name": function["name"], "arguments": arguments}
        written.append({"id": calls.ask(call.get("id")), "function": function})
    return written
