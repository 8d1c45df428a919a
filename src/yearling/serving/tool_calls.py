"""Calls of tools in an answer: the guide that keeps them whole, and the reader that finds them.

A guided model can only call tools that there are, with arguments of their schemas. The reader takes
the answer's text in any pieces and gives text and calls as they become certain; what it streams of
the arguments, put together, is what it gives at once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from yearling.models.tool_turns import CALL_END, CALL_START
from yearling.serving.request import Guide, OutputEvent

__all__ = ["CallPiece", "ToolCallReader", "pieces_of", "tool_guide"]

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NAME_START, _ARGUMENTS_START = '{"name": ', ', "arguments": '


def tool_guide(
    tools: Sequence[Mapping[str, Any]],
    choice: Literal["auto", "required"],
    *,
    is_parallel: bool,
) -> Guide:
    """Give the guide of an answer that may, or must, call tools.

    Args:
        tools: Function definitions in OpenAI's form, those that may be called.
        choice: `auto` lets the answer be text, with calls behind it or none; `required` asks for
            a call.
        is_parallel: Whether there may be several calls.
    """
    names = range(len(tools))
    functions = [
        f'call_{number}: {_quoted(_head(tool["function"]["name"]))} arguments_{number} "}}"\n'
        f"arguments_{number}: %json {json.dumps(_parameters(tool['function']))}"
        for number, tool in zip(names, tools, strict=True)
    ]
    any_call = " | ".join(f"call_{number}" for number in names)
    start, end = CALL_START.rstrip("\n"), _quoted(CALL_END)
    more = f'("\\n{start}" body)*' if is_parallel else ""
    lines = [f'body: "\\n" ({any_call}) {end}', *functions]
    if choice == "required":
        lines.insert(0, f'start: "{start}" body {more}')
    else:
        lines[:0] = [
            f"start: TEXT | lead body {more}",
            f"lead[lazy]: /(.|\\n)*{start}/",
            f"TEXT: /(.|\\n)*/ & ~/(.|\\n)*{start}(.|\\n)*/",
        ]
    return Guide(grammar="\n".join(lines), field="tools")


def _head(name: str) -> str:
    return f"{_NAME_START}{json.dumps(name)}{_ARGUMENTS_START}"


def _parameters(function: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of a function's arguments; keywords that none can keep bind strict ones alone."""
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    is_lenient = not function.get("strict")
    options = {**_JSON_STYLE, "lenient": is_lenient, "coerce_one_of": is_lenient}
    return {**(function.get("parameters") or nothing), "x-guidance": options}


def _quoted(text: str) -> str:
    """A text as a terminal of the grammar."""
    return json.dumps(text, ensure_ascii=False)


@dataclass(frozen=True, slots=True)
class CallPiece:
    """A part of an answer that calls tools.

    Attributes:
        text: What is said, outside of calls.
        call: Number of the call that the rest belongs to; None for text.
        name: Of its function, in its first piece alone.
        arguments: More of its arguments, JSON.
    """

    text: str = ""
    call: int | None = None
    name: str | None = None
    arguments: str = ""


class ToolCallReader:
    """Finds calls in the text of one answer.

    Attributes:
        num_calls: Calls found so far.
        is_cut: Whether the answer ended within a call; known behind `finish`.
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self.is_cut = False
        self._held = ""
        self._sent = ""  # of the arguments of the call that is open
        self._state: Literal["text", "head", "arguments"] = "text"

    def push(self, text: str) -> list[CallPiece]:
        """Take more of the answer, and give what became certain."""
        self._held += text
        pieces: list[CallPiece] = []
        while (piece := self._next()) is not None:
            if piece != CallPiece():
                pieces.append(piece)
        return pieces

    def finish(self) -> list[CallPiece]:
        """Give what was held back when the answer ended: a cut call's rest among it."""
        held, self._held = self._held, ""
        is_whole = self._state == "arguments" and _is_whole(self._sent)
        self.is_cut = self._state != "text" and not is_whole
        if self._state == "head":
            held = CALL_START + held  # cut before the name was known, so it is nobody's call
        if self._state != "arguments":
            return [CallPiece(held)] if held else []
        if not held or is_whole:  # the held brace is that of the call itself
            return []
        return [CallPiece(call=self.num_calls - 1, arguments=held)]

    def _next(self) -> CallPiece | None:
        """The next piece, perhaps an empty one, or None where more text must come first."""
        if self._state == "text":
            return self._text()
        if self._state == "head":
            return self._head()
        return self._arguments()

    def _text(self) -> CallPiece | None:
        before, found, after = self._held.partition(CALL_START)
        if found:
            self._held, self._state = after, "head"
            # The line end between two calls, and between text and a call, is of the form.
            return CallPiece(before.removesuffix("\n"))
        return self._certain("\n" + CALL_START, CALL_START)

    def _head(self) -> CallPiece | None:
        head, found, after = self._held.partition(_ARGUMENTS_START)
        if not found:
            return None
        self._held, self._state, self._sent = after, "arguments", ""
        self.num_calls += 1
        name = json.loads(head.removeprefix(_NAME_START))
        return CallPiece(call=self.num_calls - 1, name=name)

    def _arguments(self) -> CallPiece | None:
        end = "}" + CALL_END
        arguments, found, after = self._held.partition(end)
        if found:
            self._held, self._state = after, "text"
            return CallPiece(call=self.num_calls - 1, arguments=arguments)
        piece = self._certain(end)
        if piece is None:
            return None
        self._sent += piece.text
        return CallPiece(call=self.num_calls - 1, arguments=piece.text)

    def _certain(self, *marks: str) -> CallPiece | None:
        """All but the longest end that may be the beginning of a mark."""
        keep = max(
            (
                size
                for mark in marks
                for size in range(1, len(mark))
                if self._held.endswith(mark[:size])
            ),
            default=0,
        )
        certain = self._held[: len(self._held) - keep]
        self._held = self._held[len(certain) :]
        return CallPiece(certain) if certain else None


def pieces_of(event: OutputEvent, reader: ToolCallReader | None) -> list[CallPiece]:
    """Give what an event says, with calls apart where there is a reader of them."""
    if reader is None:
        return [CallPiece(event.text)] if event.text else []
    pieces = reader.push(event.text)
    return pieces if event.finish_reason is None else [*pieces, *reader.finish()]


def _is_whole(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except ValueError:
        return False
    return True
