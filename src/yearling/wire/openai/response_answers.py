"""Engine events into a response: items of output, streamed or whole.

Source: https://platform.openai.com/docs/api-reference/responses-streaming.
"""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from yearling.core.messages import ContentPart, Message, ToolCall
from yearling.serving.request import OutputEvent, Usage
from yearling.serving.tool_calls import CallPiece, ToolCallReader, pieces_of
from yearling.wire.openai.answers import TokenTexts, shown_entries
from yearling.wire.openai.errors import ErrorReply
from yearling.wire.openai.logprobs import chat_logprobs
from yearling.wire.openai.tools import new_call_id

__all__ = ["ResponseFold"]


@dataclass(slots=True)
class _Item:
    """An item of output while it grows: a message, or a call with its arguments."""

    id: str
    call_id: str | None = None
    name: str = ""
    text: str = ""
    logprobs: list[Mapping[str, Any]] = field(default_factory=list)
    status: str = "in_progress"

    def as_object(self, *, has_content: bool = True) -> dict[str, Any]:
        if self.call_id is None:
            content = [self.part()] if has_content else []
            return {
                "id": self.id,
                "type": "message",
                "role": "assistant",
                "status": self.status,
                "content": content,
            }
        return {
            "id": self.id,
            "type": "function_call",
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.text,
            "status": self.status,
        }

    def part(self) -> dict[str, Any]:
        return {
            "type": "output_text",
            "text": self.text,
            "annotations": [],
            "logprobs": self.logprobs,
        }


class ResponseFold:
    """Folds the events of one response."""

    def __init__(
        self,
        response_id: str,
        *,
        model: str,
        created: int,
        echo: Mapping[str, Any],
        token_texts: TokenTexts | None,
        has_tools: bool,
        on_done: Callable[[Mapping[str, Any], Message], None],
    ) -> None:
        """Start a response.

        Args:
            response_id: By which it is known.
            model: As it was asked for.
            created: Seconds since 1970.
            echo: Fields of the request that it repeats.
            token_texts: Of the tokenizer, where log-probabilities were asked for.
            has_tools: Whether it may call tools.
            on_done: Told of the whole response, and what it says as a turn.
        """
        self._head: dict[str, Any] = {"id": response_id, "object": "response"}
        self._head |= {"created_at": created, "model": model, **echo}
        self._token_texts = token_texts
        self._reader = ToolCallReader() if has_tools else None
        self._on_done = on_done
        self._items: list[_Item] = []
        self._is_cut = False
        self._usage: Usage | None = None
        self._number = 0

    def opening(self) -> Iterator[dict[str, Any]]:
        """The response without output."""
        for name in ("created", "in_progress"):
            yield self._event(f"response.{name}", response=self._response("in_progress"))

    def event(self, index: int, event: OutputEvent) -> Iterator[dict[str, Any]]:
        """Items that begin, grow and end; must be exhausted."""
        logprobs = self._logprobs(event)
        for piece in pieces_of(event, self._reader):
            if self._begins(piece):
                yield from self._ended()
                yield from self._begun(piece)
            yield from self._grown(piece, logprobs)
            logprobs = []
        if logprobs:  # of tokens whose text is held back, as half of a letter is
            if not self._items:
                yield from self._begun(CallPiece())
            yield from self._grown(CallPiece(), logprobs)
        self._note_end(event)

    def closing(self) -> Iterator[dict[str, Any]]:
        """The last item's end, and the whole response."""
        if not self._items:
            yield from self._begun(CallPiece())
        yield from self._ended()
        response = self._response("incomplete" if self._is_cut else "completed")
        self._on_done(response, self._turn())
        yield self._event(f"response.{response['status']}", response=response)

    def add(self, index: int, event: OutputEvent) -> None:
        """Take an event in."""
        for _ in self.event(index, event):
            pass

    def body(self) -> dict[str, Any]:
        """The whole response, after the last event."""
        *_, last = self.closing()
        response: dict[str, Any] = last["response"]
        return response

    def failure(self, reply: ErrorReply) -> dict[str, Any]:
        """The event that tells of an error."""
        kinds = {429: "rate_limit_exceeded"}
        kind = kinds.get(reply.status, "invalid_prompt" if reply.status < 500 else "server_error")
        error = {"code": kind, "message": reply.message}
        return self._event("response.failed", response=self._response("failed") | {"error": error})

    def _begins(self, piece: CallPiece) -> bool:
        """Whether a piece is of another item than the one before."""
        if piece.name is not None or not self._items:
            return True
        return piece.call is None and self._items[-1].call_id is not None

    def _begun(self, piece: CallPiece) -> Iterator[dict[str, Any]]:
        if piece.name is None:
            item = _Item(f"msg_{secrets.token_hex(12)}")
        else:
            item = _Item(f"fc_{secrets.token_hex(12)}", new_call_id(), piece.name)
        self._items.append(item)
        shown = item.as_object(has_content=False)
        yield self._event("response.output_item.added", **self._place(), item=shown)
        if item.call_id is None:
            place = self._place() | {"item_id": item.id, "content_index": 0}
            yield self._event("response.content_part.added", **place, part=item.part())

    def _grown(
        self, piece: CallPiece, logprobs: Sequence[Mapping[str, Any]]
    ) -> Iterator[dict[str, Any]]:
        item = self._items[-1]
        item.text += piece.text or piece.arguments
        item.logprobs += logprobs
        place = self._place() | {"item_id": item.id}
        if item.call_id is not None:
            if piece.arguments:
                kind = "response.function_call_arguments.delta"
                yield self._event(kind, **place, delta=piece.arguments)
        elif piece.text or logprobs:
            told = {"content_index": 0, "delta": piece.text, "logprobs": logprobs}
            yield self._event("response.output_text.delta", **place, **told)

    def _ended(self) -> Iterator[dict[str, Any]]:
        """The end of the item that grew last, if there is one."""
        if not self._items:
            return
        item = self._items[-1]
        item.status = "incomplete" if self._is_cut else "completed"
        place = self._place() | {"item_id": item.id}
        if item.call_id is not None:
            told = {"name": item.name, "arguments": item.text}
            yield self._event("response.function_call_arguments.done", **place, **told)
        else:
            place["content_index"] = 0
            yield self._event(
                "response.output_text.done", **place, text=item.text, logprobs=item.logprobs
            )
            yield self._event("response.content_part.done", **place, part=item.part())
        yield self._event("response.output_item.done", **self._place(), item=item.as_object())

    def _place(self) -> dict[str, Any]:
        return {"output_index": len(self._items) - 1}

    def _event(self, kind: str, **told: Any) -> dict[str, Any]:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **told}

    def _logprobs(self, event: OutputEvent) -> list[Mapping[str, Any]]:
        if self._token_texts is None:
            return []
        entries = shown_entries(event, self._token_texts)
        return list(chat_logprobs(entries, self._token_texts.token_bytes)["content"])

    def _note_end(self, event: OutputEvent) -> None:
        if event.usage is not None:
            self._usage = event.usage
        self._is_cut = event.finish_reason == "length"

    def _response(self, status: str) -> dict[str, Any]:
        usage = self._usage
        return {
            **self._head,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if self._is_cut else None,
            "output": [item.as_object() for item in self._items],
            "reasoning": {"effort": None, "summary": None},
            "usage": None if usage is None else _usage_object(usage),
        }

    def _turn(self) -> Message:
        texts = [item.text for item in self._items if item.call_id is None and item.text]
        # A call that the length cut has no whole arguments, and was never made.
        calls = tuple(
            ToolCall(item.call_id, item.name, item.text)
            for item in self._items
            if item.call_id is not None and item.status == "completed"
        )
        return Message("assistant", tuple(ContentPart(text) for text in texts), tool_calls=calls)


def _usage_object(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
