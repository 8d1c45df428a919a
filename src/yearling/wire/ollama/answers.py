"""Engine events into Ollama's answers: lines of JSON, or one object.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from yearling.serving.request import OutputEvent, Usage
from yearling.serving.tool_calls import ToolCallReader, pieces_of
from yearling.wire.openai.errors import ErrorReply

__all__ = ["OllamaFold", "answer_line", "error_payload", "load_answer", "utc_text"]


def error_payload(reply: ErrorReply) -> dict[str, Any]:
    """An error as this API sends it.

    >>> error_payload(ErrorReply(404, "No such model."))
    {'error': 'No such model.'}
    """
    return {"error": reply.message}


def utc_text(seconds: float) -> str:
    """A time as RFC 3339 has it.

    >>> utc_text(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def answer_line(
    model: str, text: str, calls: Sequence[Mapping[str, Any]] = (), *, is_chat: bool
) -> dict[str, Any]:
    """A line of an answer: new text, or whole calls."""
    line: dict[str, Any] = {"model": model, "created_at": utc_text(time.time()), "done": False}
    if not is_chat:
        return line | {"response": text}
    message: dict[str, Any] = {"role": "assistant", "content": text}
    return line | {"message": message | {"tool_calls": calls} if calls else message}


def load_answer(model: str, reason: str, *, is_chat: bool) -> dict[str, Any]:
    """The answer to whoever wants a model loaded or let go of: it says nothing."""
    return answer_line(model, "", is_chat=is_chat) | {"done": True, "done_reason": reason}


class OllamaFold:
    """Folds the events of a chat or a generation."""

    def __init__(self, model: str, *, is_chat: bool, has_tools: bool) -> None:
        """Start an answer; the clock runs from here."""
        self._model = model
        self._is_chat = is_chat
        self._reader = ToolCallReader() if has_tools else None
        self._started = time.perf_counter_ns()
        self._first: int | None = None
        self._text: list[str] = []
        self._calls: list[tuple[str, list[str]]] = []
        self._num_told = 0
        self._reason = "stop"
        self._usage = Usage(0, 0)

    def opening(self) -> Iterator[dict[str, Any]]:
        """Nothing comes before the first event."""
        return iter(())

    def event(self, index: int, event: OutputEvent) -> Iterator[dict[str, Any]]:
        """A line for new text, and one for each call that is whole; must be exhausted."""
        text = self._take(event)
        if text:
            yield self._line(text, [])
        is_over = event.finish_reason is not None
        num_ended = len(self._calls) if is_over else max(len(self._calls) - 1, 0)
        calls = _whole_calls(self._calls[self._num_told : num_ended])
        self._num_told = num_ended
        if calls:
            yield self._line("", calls)

    def closing(self) -> Iterator[dict[str, Any]]:
        """The last line says why it ended, and what it took."""
        yield self._line("", []) | self._ending()

    def add(self, index: int, event: OutputEvent) -> None:
        """Take an event in."""
        self._take(event)

    def body(self) -> dict[str, Any]:
        """The whole answer, after the last event."""
        return self._line("".join(self._text), _whole_calls(self._calls)) | self._ending()

    def _take(self, event: OutputEvent) -> str:
        """Take an event in, and give its text."""
        if event.tokens and self._first is None:
            self._first = time.perf_counter_ns()
        text = ""
        for piece in pieces_of(event, self._reader):
            if piece.call is None:
                text += piece.text
            elif piece.name is not None:
                self._calls.append((piece.name, []))
            else:
                self._calls[piece.call][1].append(piece.arguments)
        self._text.append(text)
        if event.finish_reason is not None:
            self._reason = event.finish_reason
        if event.usage is not None:
            self._usage = event.usage
        return text

    def _line(self, text: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return answer_line(self._model, text, calls, is_chat=self._is_chat)

    def _ending(self) -> dict[str, Any]:
        now = time.perf_counter_ns()
        first = self._first or now
        return {
            "done": True,
            "done_reason": self._reason,
            "total_duration": now - self._started,
            "load_duration": 0,
            "prompt_eval_count": self._usage.prompt_tokens,
            "prompt_eval_duration": first - self._started,
            "eval_count": self._usage.completion_tokens,
            "eval_duration": now - first,
        }


def _whole_calls(calls: Iterable[tuple[str, Sequence[str]]]) -> list[dict[str, Any]]:
    """Calls as a client makes them; one that the answer's end cut is nobody's to make."""
    whole = []
    for name, arguments in calls:
        with suppress(ValueError):
            found = json.loads("".join(arguments))
            whole.append({"function": {"name": name, "arguments": found}})
    return whole
