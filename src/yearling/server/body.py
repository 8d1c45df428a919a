"""Reading request bodies within bounds of size, time and form."""

import asyncio
import time
from typing import Any

from starlette.requests import Request

from yearling.server.errors import HttpError
from yearling.server.limits import Limits
from yearling.wire.json_body import parse_json_object
from yearling.wire.openai.errors import ErrorReply

__all__ = ["ClientLeftError", "read_json"]

# Parsing this much takes about a millisecond; more goes to a thread, so that streams go on.
_INLINE_BYTES = 64 * 1024
# A body this many times too long is still read to its end, so that the client sees our answer
# and not a broken connection.
_TOLERATED_EXCESS = 4


class ClientLeftError(Exception):
    """The client closed the connection; nobody is there to answer."""


async def read_json(request: Request, limits: Limits, *, needs_type: bool = True) -> dict[str, Any]:
    """Read a body that must be one JSON object.

    Args:
        request: Whose body it is.
        limits: On its size and slowness.
        needs_type: Whether a body must be sent as JSON.

    Raises:
        HttpError: 413 too large, 415 not JSON, 408 too slow.
        RequestError: not a strict JSON object.
        ClientLeftError: the connection closed before the end.
    """
    _check_form(request, needs_type=needs_type)
    body = await _read_bytes(request, limits)
    if len(body) <= _INLINE_BYTES:
        return parse_json_object(body, limits.for_requests())
    return await asyncio.to_thread(parse_json_object, body, limits.for_requests())


def _check_form(request: Request, *, needs_type: bool) -> None:
    kind, *parameters = request.headers.get("content-type", "").lower().split(";")
    charset = [part.strip() for part in parameters if part.strip()]
    is_json = kind.strip() == "application/json" and charset in ([], ["charset=utf-8"])
    if needs_type and not is_json:
        raise HttpError(
            ErrorReply(415, "The body must be sent as 'Content-Type: application/json', in UTF-8.")
        )
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HttpError(ErrorReply(415, "Compressed bodies are not read: send it plain."))


async def _read_bytes(request: Request, limits: Limits) -> bytes:
    pieces: list[bytes] = []
    num_bytes = 0
    start = time.monotonic()
    is_whole = False
    while not is_whole:
        patience = limits.body_grace_seconds + num_bytes / limits.body_bytes_per_second
        message = await _receive(request, start + patience - time.monotonic())
        num_bytes += len(message.get("body", b""))
        if num_bytes <= limits.body_bytes:
            pieces.append(message.get("body", b""))
        elif num_bytes > _TOLERATED_EXCESS * limits.body_bytes:
            break
        is_whole = not message.get("more_body", False)
    if num_bytes > limits.body_bytes:
        raise HttpError(
            ErrorReply(
                413,
                f"The body is larger than {limits.body_bytes} bytes, the limit of this server.",
                code="request_too_large",
            )
        )
    return b"".join(pieces)


async def _receive(request: Request, seconds: float) -> dict[str, Any]:
    try:
        async with asyncio.timeout(max(seconds, 0.0)):
            message = dict(await request.receive())
    except TimeoutError:
        raise HttpError(ErrorReply(408, "The body came too slowly.")) from None
    if message["type"] == "http.disconnect":
        raise ClientLeftError
    return message
