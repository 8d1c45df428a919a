"""Server-sent events: an answer in pieces, until it ends, fails, or the client leaves."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from yearling.server.body import ClientLeftError
from yearling.server.errors import reply_of
from yearling.server.generation import Generation
from yearling.server.log import log_failure
from yearling.serving.request import OutputEvent
from yearling.wire.openai.errors import ErrorReply

__all__ = [
    "OPENAI",
    "AnswerFrames",
    "EventStream",
    "Framing",
    "named_frame",
    "unless_client_leaves",
]

_Result = TypeVar("_Result")
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Framing:
    """How one protocol writes a stream.

    Attributes:
        frame: A chunk as bytes.
        failure: The chunk that tells of an error.
        end: Bytes behind the last chunk.
        silence: Bytes that show a client that the server still works; none where a client would
            take them for an answer.
        media_type: Of the stream.
    """

    frame: Callable[[Mapping[str, Any]], bytes]
    failure: Callable[[ErrorReply], Mapping[str, Any]]
    end: bytes
    silence: bytes = b": still here\n\n"
    media_type: str = "text/event-stream"


class AnswerFrames(Protocol):
    """Turns events into the chunks of one protocol; implemented in `wire`."""

    def opening(self) -> Iterable[Mapping[str, Any]]:
        """Chunks before the first event."""
        ...

    def event(self, index: int, event: OutputEvent) -> Iterable[Mapping[str, Any]]:
        """Chunks for an event of one choice."""
        ...

    def closing(self) -> Iterable[Mapping[str, Any]]:
        """Chunks after the last event."""
        ...


class EventStream(Response):
    """Streams a generation that runs already; what `owner` holds is released at the end."""

    def __init__(
        self,
        generation: Generation,
        frames: AnswerFrames,
        *,
        first: tuple[int, OutputEvent] | None,
        owner: AsyncExitStack,
        silence_seconds: float,
        framing: Framing,
    ) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(headers=headers, media_type=framing.media_type)
        del self.headers["content-length"]
        self._generation = generation
        self._frames = frames
        self._first = first
        self._owner = owner
        self._silence_seconds = silence_seconds
        self._framing = framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; a client that leaves ends the generation at once."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        async with self._owner:
            await send(start)
            writing = asyncio.create_task(self._write(send))
            leaving = asyncio.create_task(_wait_until_left(receive))
            await _first_of(writing, leaving)

    async def _write(self, send: Send) -> None:
        try:
            await self._send_chunks(send, self._frames.opening())
            await self._write_events(send)
            await self._send_chunks(send, self._frames.closing())
            tail = self._framing.end
        except Exception as error:
            reply = reply_of(error)
            log_failure(error, reply.status)
            tail = self._framing.frame(self._framing.failure(reply))
        await send({"type": "http.response.body", "body": tail, "more_body": False})

    async def _write_events(self, send: Send) -> None:
        item = self._first
        if item is not None:
            await self._send_chunks(send, self._frames.event(*item))
        while not self._generation.is_done:
            item = await self._generation.next_event(self._silence_seconds)
            if item is None and self._framing.silence:
                await _send_body(send, self._framing.silence)
            elif item is not None:
                await self._send_chunks(send, self._frames.event(*item))

    async def _send_chunks(self, send: Send, chunks: Iterable[Mapping[str, Any]]) -> None:
        body = b"".join(self._framing.frame(chunk) for chunk in chunks)
        if body:
            await _send_body(send, body)


async def unless_client_leaves(request: Request, work: Awaitable[_Result]) -> _Result:
    """Wait for work whose body has been read, cancelling it when the client leaves.

    Raises:
        ClientLeftError: the connection closed first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.create_task(_wait_until_left(request.receive))
    await _first_of(working, leaving)
    if working.cancelled():
        raise ClientLeftError
    return working.result()


async def _first_of(work: "asyncio.Future[Any]", leaving: "asyncio.Task[None]") -> None:
    """Wait until one is done, and cancel the other; being cancelled cancels both."""
    try:
        await asyncio.wait((work, leaving), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (work, leaving):
            task.cancel()
        await asyncio.gather(work, leaving, return_exceptions=True)


async def _wait_until_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send_body(send: Send, body: bytes) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": True})


def named_frame(chunk: Mapping[str, Any]) -> bytes:
    """A chunk as a server-sent event that bears its type's name."""
    return f"event: {chunk['type']}\ndata: ".encode() + _encode(chunk) + b"\n\n"


def _data_frame(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + _encode(chunk) + b"\n\n"


OPENAI = Framing(_data_frame, ErrorReply.payload, b"data: [DONE]\n\n")
"""Server-sent events without names."""
