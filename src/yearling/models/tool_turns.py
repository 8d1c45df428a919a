"""Tools in a conversation: how a model is told of them, and how it is shown calls and results.

A template that writes calls between `<tool_call>` and `</tool_call>` is given tools and calls as
they are. Any other model gets the same in words: the tools in its system message, earlier calls in
its own turns, and results in a user's turn. So every model that chats can be asked to call tools in
one form, which `serving/tool_calls.py` guides and reads; one never trained to call any does it less
well.

Source of the form: Hermes Function Calling, NousResearch 2024, which Qwen 2.5 and 3 write too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from yearling.core.messages import ContentPart, Message, ToolCall

__all__ = ["CALL_END", "CALL_START", "call_text", "in_words", "knows_calls"]

CALL_START, CALL_END = "<tool_call>\n", "\n</tool_call>"
"""Around the JSON of a call: `{"name": …, "arguments": {…}}`."""

_INTRODUCTION = """# Tools

You can call these functions. Each line describes one, with a JSON Schema of its parameters:
{functions}

To call a function, write its name and arguments like this:
<tool_call>
{{"name": "NAME", "arguments": {{"PARAMETER": VALUE}}}}
</tool_call>
You then get its result between <tool_response> and </tool_response>."""


def knows_calls(template: str) -> bool:
    """Say whether a chat template writes tools and calls in this form by itself."""
    return "<tool_call>" in template and "tools" in template


def call_text(call: ToolCall) -> str:
    """Write a call as a model does."""
    return (
        f'{CALL_START}{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}{CALL_END}'
    )


def in_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]], *, has_system: bool = True
) -> list[Message]:
    """Write tools, calls and results into the text of a conversation.

    Args:
        messages: The conversation.
        tools: Function definitions in OpenAI's form; none where only earlier calls are to be shown.
        has_system: Whether the template has a place for a system message; otherwise tools stand
            at the beginning of the first turn.
    """
    written: list[Message] = []
    for message in messages:
        if message.role == "tool":
            _add_result(written, f"<tool_response>\n{message.text}\n</tool_response>")
        elif message.role == "user" and _ends_in_result(written):
            text = f"{written.pop().text}\n{message.text}"  # turns of the two alternate
            written.append(replace(message, content=(ContentPart(text),)))
        elif message.tool_calls:
            calls = [call_text(call) for call in message.tool_calls]
            text = "\n".join([message.text, *calls] if message.text else calls)
            written.append(replace(message, content=(ContentPart(text),), tool_calls=()))
        else:
            written.append(message)
    return _introduced(written, tools, has_system=has_system) if tools else written


def _add_result(written: list[Message], text: str) -> None:
    """Results of calls made together stand in one turn."""
    if _ends_in_result(written):
        text = f"{written.pop().text}\n{text}"
    written.append(Message("user", (ContentPart(text),)))


def _ends_in_result(written: Sequence[Message]) -> bool:
    last = written[-1] if written else None
    return last is not None and last.role == "user" and last.text.endswith("</tool_response>")


def _introduced(
    messages: list[Message], tools: Sequence[Mapping[str, Any]], *, has_system: bool
) -> list[Message]:
    functions = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    text = _INTRODUCTION.format(functions=functions)
    if messages[0].role in ("system", "developer"):
        first = replace(messages[0], content=(ContentPart(f"{messages[0].text}\n\n{text}"),))
        return [first, *messages[1:]]
    if has_system:
        return [Message("system", (ContentPart(text),)), *messages]
    first = replace(messages[0], content=(ContentPart(f"{text}\n\n{messages[0].text}"),))
    return [first, *messages[1:]]
