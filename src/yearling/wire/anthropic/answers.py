"""Engine events into a message: content blocks, streamed or whole.

Source: https://docs.anthropic.com/en/api/messages-streaming.
"""

import json
import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from yearling.serving.request import OutputEvent, Usage
from yearling.serving.tool_calls import CallPiece, ToolCallReader, pieces_of
from yearling.wire.openai.errors import ErrorReply
from yearling.wire.openai.logprobs import TokenBytes

__all__ = ["VERSION_HEADER", "MessageFold", "error_payload"]

VERSION_HEADER = "anthropic-version"
"""What clients of this API send with every request."""

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def error_payload(reply: ErrorReply) -> dict[str, Any]:
    """An error as this API sends it.

    >>> error_payload(ErrorReply(404, "No such model."))["error"]["type"]
    'not_found_error'
    """
    kind = "invalid_request_error" if reply.status < 500 else "api_error"
    error = {"type": _ERROR_TYPES.get(reply.status, kind), "message": reply.message}
    return {"type": "error", "error": error}


@dataclass(slots=True)
class _Block:
    """A content block while it grows: text, or a call with its arguments."""

    text: str = ""
    call_id: str | None = None
    name: str = ""

    def as_object(self) -> dict[str, Any]:
        if self.call_id is None:
            return {"type": "text", "text": self.text, "citations": None}
        # A call that the length cut has no whole object; what there is would be none.
        try:
            arguments = json.loads(self.text)
        except ValueError:
            arguments = {}
        return {"type": "tool_use", "id": self.call_id, "name": self.name, "input": arguments}

    def as_start(self) -> dict[str, Any]:
        if self.call_id is None:
            return {"type": "text", "text": ""}
        return {"type": "tool_use", "id": self.call_id, "name": self.name, "input": {}}


class MessageFold:
    """Folds the events of one message."""

    def __init__(
        self,
        model: str,
        *,
        num_prompt: int,
        stops: Sequence[str],
        ends: Sequence[str],
        token_bytes: TokenBytes,
        has_tools: bool,
    ) -> None:
        """Start a message.

        Args:
            model: As it was asked for.
            num_prompt: Tokens of the prompt.
            stops: Texts that the request ends it at.
            ends: Those, and the texts that end every answer of the model.
            token_bytes: What a token shows, by which the text that ended it is found.
            has_tools: Whether it may call tools.
        """
        self.id = f"msg_{secrets.token_hex(12)}"
        self._model = model
        self._stops = stops
        self._ends = ends
        self._token_bytes = token_bytes
        self._reader = ToolCallReader() if has_tools else None
        self._blocks: list[_Block] = []
        self._tail = b""
        self._reason: str | None = None
        self._stop: str | None = None
        self._usage = Usage(num_prompt, 0)

    def opening(self) -> Iterator[dict[str, Any]]:
        """The message without content."""
        yield {"type": "message_start", "message": self._message([])}

    def event(self, index: int, event: OutputEvent) -> Iterator[dict[str, Any]]:
        """Blocks that begin, grow and end; must be exhausted."""
        for piece in pieces_of(event, self._reader):
            is_new = self._take(piece)
            number = len(self._blocks) - 1
            if is_new:
                if number > 0:
                    yield {"type": "content_block_stop", "index": number - 1}
                start = self._blocks[-1].as_start()
                yield {"type": "content_block_start", "index": number, "content_block": start}
            delta = _delta(piece)
            if delta is not None:
                yield {"type": "content_block_delta", "index": number, "delta": delta}
        self._note_end(event)

    def closing(self) -> Iterator[dict[str, Any]]:
        """Why it ended, and what it took."""
        if self._blocks:
            yield {"type": "content_block_stop", "index": len(self._blocks) - 1}
        ending = {"stop_reason": self._reason, "stop_sequence": self._stop}
        # What was cached is known at the end alone, and the start must have said the same.
        usage = replace(self._usage, cached_tokens=0)
        yield {"type": "message_delta", "delta": ending, "usage": _usage(usage)}
        yield {"type": "message_stop"}

    def add(self, index: int, event: OutputEvent) -> None:
        """Take an event in."""
        for piece in pieces_of(event, self._reader):
            self._take(piece)
        self._note_end(event)

    def body(self) -> dict[str, Any]:
        """The whole message, after the last event."""
        return self._message([block.as_object() for block in self._blocks])

    def _message(self, content: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": self._reason,
            "stop_sequence": self._stop,
            "usage": _usage(self._usage),
        }

    def _take(self, piece: CallPiece) -> bool:
        """Take a piece in, and say whether a block began with it."""
        if piece.name is not None:
            call_id = f"toolu_{secrets.token_hex(12)}"
            self._blocks.append(_Block(call_id=call_id, name=piece.name))
            return True
        is_text = piece.call is None
        last = self._blocks[-1] if self._blocks else None
        is_new = last is None or (is_text and last.call_id is not None)
        if is_new:
            self._blocks.append(_Block())
        self._blocks[-1].text += piece.text or piece.arguments
        return is_new

    def _note_end(self, event: OutputEvent) -> None:
        longest = max(map(len, self._ends), default=0) * 4
        self._tail += b"".join(self._token_bytes(token) for token in event.tokens)
        if event.usage is not None:
            self._usage = event.usage
        if event.finish_reason is None:
            self._tail = self._tail[-longest:] if longest else b""
            return
        found = self._found_end()
        self._stop = found if found in self._stops else None
        has_calls = any(block.call_id is not None for block in self._blocks)
        if event.finish_reason == "length":
            self._reason = "max_tokens"
        elif self._stop is not None:
            self._reason = "stop_sequence"
        else:
            self._reason = "tool_use" if has_calls else "end_turn"

    def _found_end(self) -> str | None:
        """The text that ended the message: complete first or longest, as the detokenizer has it."""
        text = self._tail.decode(errors="replace")
        found = [(text.find(end) + len(end), -len(end), end) for end in self._ends if end in text]
        return min(found)[-1] if found else None


def _delta(piece: CallPiece) -> dict[str, Any] | None:
    if piece.call is None:
        return {"type": "text_delta", "text": piece.text}
    if piece.name is None:
        return {"type": "input_json_delta", "partial_json": piece.arguments}
    return None


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
