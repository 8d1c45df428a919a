"""The HTTP/1.1 connection, with the time limits that uvicorn leaves out.

uvicorn (measured with 0.54) lets a half-sent request, a silent connection and a client that
never reads its answer stay for as long as they like. Here each has a deadline, there is a cap on
connections, and a request that is not HTTP gets an error object like any other.
"""

import asyncio
import json
import sys
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from yearling.server.errors import large_headers
from yearling.server.limits import Limits
from yearling.wire.openai.errors import ErrorReply

__all__ = ["limited_protocol"]


def limited_protocol(limits: Limits) -> type[asyncio.Protocol]:
    """Make the protocol class that uvicorn instantiates for every connection."""
    return type("LimitedProtocol", (_LimitedProtocol,), {"limits": limits})


class _LimitedProtocol(H11Protocol):
    """uvicorn's protocol with deadlines; uvicorn offers no other seam than a subclass."""

    limits: Limits
    _deadline: asyncio.TimerHandle | None = None
    _stall: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the deadline for the first request, or refuse one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            transport.write(_refusal(_too_many(self.limits)))
            transport.close()
            return
        self._expect_headers()

    def data_received(self, data: bytes) -> None:
        """Take bytes in; the deadline for headers runs until a request is complete enough."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_answering():
            self._stop_deadline()
        else:
            self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_deadline()
        self._stop_stall()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads too slowly: it has this long to catch up."""
        super().pause_writing()
        if self._stall is None:
            seconds = self.limits.stream_stall_seconds
            self._stall = self.loop.call_later(seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client caught up."""
        self._stop_stall()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP; h11 tells whether the headers were merely too large."""
        error = sys.exc_info()[1]
        is_large = isinstance(error, h11.RemoteProtocolError) and error.error_status_hint == 431
        if is_large:
            reply = large_headers(self.limits.header_bytes)
        else:
            reply = ErrorReply(400, "That is not a valid HTTP request.")
        self.transport.write(_refusal(reply))
        self.transport.close()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn's annotation hides the None
        return cycle is not None and not cycle.response_complete

    def _expect_headers(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.header_seconds, self._give_up)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_stall(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self._is_answering() and not self.transport.is_closing():
            self.transport.write(_refusal(ErrorReply(408, "The request came too slowly.")))
            self.transport.close()


def _too_many(limits: Limits) -> ErrorReply:
    message = f"{limits.connections} connections are open, the limit here; try again soon."
    return ErrorReply(503, message, "server_error", "too_many_connections", retry_after_seconds=1)


def _refusal(reply: ErrorReply) -> bytes:
    """A whole answer in bytes, for connections that never became requests."""
    body = json.dumps(reply.payload()).encode()
    head = (
        f"HTTP/1.1 {reply.status} Refused\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n"
    )
    if reply.retry_after_seconds is not None:
        head += f"retry-after: {reply.retry_after_seconds}\r\n"
    return head.encode() + b"\r\n" + body
