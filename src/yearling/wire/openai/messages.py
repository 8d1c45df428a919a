"""Messages of a request in OpenAI's form, as clients send them and send them back.

A client appends the message of an answer to the conversation as it came, so fields that only
answers have are known here: those that say nothing are passed over, any other is refused by name.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from yearling.core.errors import RequestError, UnsupportedError
from yearling.core.messages import Message, parse_messages

__all__ = ["read_messages"]

_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")
_REFUSED = {
    "annotations": "models here cite nothing",
    "audio": "no model here speaks",
    "function_call": "it is the old form of tool_calls",
    "refusal": "send what was said as content",
}
# OpenAI's client keeps what it read from an answer's JSON beside the JSON itself.
_READ_BY_CLIENTS = ("parsed", "parsed_arguments")


def read_messages(raw: Sequence[Any]) -> tuple[Message, ...]:
    """Check messages and turn them into ours; null means unset.

    Raises:
        RequestError: a message, or a part of one, has an unknown field or a wrong value;
            `parameter` names it, for example `messages[2].tool_calls[0].id`.

    >>> read_messages([{"role": "assistant", "content": "Hi", "audio": None}])[0].text
    'Hi'
    """
    return parse_messages([_plain(entry, f"messages[{at}]") for at, entry in enumerate(raw)])


def _plain(raw: Any, where: str) -> Any:
    """A message without what says nothing; the parser refuses what is no object."""
    if not isinstance(raw, Mapping):
        return raw
    message = _told(raw)
    if message.get("annotations") == []:
        del message["annotations"]
    for name, reason in _REFUSED.items():
        if name in message:
            raise UnsupportedError(
                f"{where}.{name} is not supported: {reason}. Leave it out.",
                parameter=f"{where}.{name}",
            )
    _check_fields(message, _FIELDS, where)
    for name in ("name", "tool_call_id"):
        if not isinstance(message.get(name, ""), str):
            raise RequestError(f"{where}.{name} must be a string.", parameter=f"{where}.{name}")
    if "tool_calls" in message:
        message["tool_calls"] = _calls(message["tool_calls"], f"{where}.tool_calls")
    if isinstance(message.get("content"), list):
        for index, part in enumerate(message["content"]):
            if isinstance(part, Mapping) and part.get("type") == "text":
                _check_fields(_told(part), ("type", "text"), f"{where}.content[{index}]")
    return message


def _calls(raw: Any, where: str) -> list[dict[str, Any]]:
    if not isinstance(raw, list):
        raise RequestError(f"{where} must be a list of calls.", parameter=where)
    return [_call(call, f"{where}[{index}]") for index, call in enumerate(raw)]


def _call(raw: Any, where: str) -> dict[str, Any]:
    """A call; `index` stands in those that were put together from a stream."""
    if not isinstance(raw, Mapping):
        raise RequestError(f"{where} must be an object.", parameter=where)
    call = _told(raw)
    if call.get("type", "function") != "function":
        raise UnsupportedError(
            f"{where}.type is not 'function', the only kind of call here.",
            parameter=f"{where}.type",
        )
    _check_fields(call, ("id", "type", "function", "index"), where)
    if isinstance(call.get("function"), Mapping):
        call["function"] = _told(call["function"])
        _check_fields(call["function"], ("name", "arguments"), f"{where}.function")
    return call


def _told(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What an object says: neither nulls nor what a client read from the rest."""
    return {
        name: value
        for name, value in raw.items()
        if value is not None and name not in _READ_BY_CLIENTS
    }


def _check_fields(part: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    for name in part:
        if name not in known:
            parameter = f"{where}.{name[:128]}"
            raise UnsupportedError(
                f"{parameter} is not known; known there: {', '.join(known)}.", parameter=parameter
            )
