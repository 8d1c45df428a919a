"""Errors that HTTP itself brings, and turning every error into an answer."""

import json
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from yearling.core.errors import YearlingError
from yearling.wire.anthropic import answers as anthropic
from yearling.wire.ollama import answers as ollama
from yearling.wire.openai.errors import ErrorReply, error_reply

__all__ = ["HttpError", "error_response", "large_headers", "reply_of"]


class HttpError(YearlingError):
    """A refusal whose status HTTP decides, not a request's content."""

    def __init__(self, reply: ErrorReply) -> None:
        super().__init__(reply.message)
        self.reply = reply


def reply_of(error: BaseException) -> ErrorReply:
    """The error object and status for anything a route may raise."""
    if isinstance(error, HttpError):
        return error.reply
    if isinstance(error, HTTPException):
        return _plain(error.status_code)
    return error_reply(error)


def error_response(reply: ErrorReply, scope: Scope | None = None) -> Response:
    """An answer that carries an error object, in the form of the API that a request is of."""
    headers = {}
    if reply.retry_after_seconds is not None:
        headers["retry-after"] = str(reply.retry_after_seconds)
    if reply.status == HTTPStatus.UNAUTHORIZED:
        headers["www-authenticate"] = "Bearer"
    if reply.status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
        headers["connection"] = "close"
    payload = _payload(reply, scope) if scope else reply.payload()
    return Response(json.dumps(payload), reply.status, headers, media_type="application/json")


def _payload(reply: ErrorReply, scope: Scope) -> dict[str, Any]:
    if scope["path"].startswith("/api/"):
        return ollama.error_payload(reply)
    headers = Headers(scope=scope)
    if scope["path"].startswith("/v1/messages") or anthropic.VERSION_HEADER in headers:
        return anthropic.error_payload(reply)
    return reply.payload()


def large_headers(most_bytes: int) -> ErrorReply:
    """The answer to headers beyond the limit."""
    return ErrorReply(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        f"The headers are larger than {most_bytes} bytes, the limit here.",
    )


def _plain(status: int) -> ErrorReply:
    known: dict[int, tuple[str, str]] = {
        404: ("There is no such route; the API lives under /v1.", "unknown_url"),
        405: ("This route does not take that method.", "method_not_allowed"),
    }
    message, code = known.get(status, (HTTPStatus(status).phrase, None))
    return ErrorReply(status, message, code=code)
