"""The outermost layer: what holds for every request, whatever its route.

Request ids, the check of Host and Origin, refusing work while draining, and the promise that
even an unexpected failure answers with an error object.
"""

import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from yearling.server.body import ClientLeftError
from yearling.server.errors import HttpError, error_response, large_headers, reply_of
from yearling.server.lenience import ignored_header
from yearling.server.log import REQUEST_ID, log_failure, log_request
from yearling.server.service import Service

__all__ = ["Front"]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# What a server that is about to stop still answers.
_OPEN_WHILE_DRAINING = frozenset({"/health", "/metrics"})


class Front:
    """Wraps the application; pure ASGI, so that streams and disconnects pass untouched."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        REQUEST_ID.set(answer.request_id)
        self._service.num_open_requests += 1
        try:
            self._check(scope)
            await self._app(scope, receive, answer.send)
        except ClientLeftError:
            answer.status = 499
        except Exception as error:
            reply = reply_of(error)
            log_failure(error, reply.status)
            if answer.status is not None:
                raise
            await error_response(reply, scope)(scope, receive, answer.send)
        finally:
            self._service.num_open_requests -= 1
            self._note(scope, answer)

    def _check(self, scope: Scope) -> None:
        # h11 bounds a request that is still arriving, not one that came in a single piece.
        num_bytes = len(scope["raw_path"]) + len(scope["query_string"])
        num_bytes += sum(len(name) + len(value) + 4 for name, value in scope["headers"])
        if num_bytes > self._service.limits.header_bytes:
            raise HttpError(large_headers(self._service.limits.header_bytes))
        self._service.access.check_address(Headers(scope=scope))
        if self._service.is_draining and scope["path"] not in _OPEN_WHILE_DRAINING:
            raise HttpError(self._service.draining_reply())

    def _note(self, scope: Scope, answer: "_Answer") -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        status = 499 if answer.status is None else answer.status
        self._service.metrics.http_requests.labels(route, _method(scope), str(status)).inc()
        log_request(_method(scope), route, status, time.monotonic() - answer.started)


class _Answer:
    """One answer on its way out: adds the headers every answer has, notes its status."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = Headers(scope=scope).get("x-request-id", "")
        is_usable = _REQUEST_ID.fullmatch(given) is not None
        self.request_id = given if is_usable else secrets.token_hex(16)
        self.status: int | None = None
        self._scope = scope
        self.started = time.monotonic()
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(raw=list(message["headers"]))
            headers["x-request-id"] = self.request_id
            headers["request-id"] = self.request_id  # Anthropic's name of it
            headers["x-content-type-options"] = "nosniff"
            headers.setdefault("cache-control", "no-store")
            if ignored := self._scope.get("state", {}).get("ignored"):
                headers["x-ignored-params"] = ignored_header(ignored)
            message["headers"] = headers.raw
        await self._send(message)


def _method(scope: Scope) -> str:
    """The method as a metric label: one of the known ones, so that clients cannot add series."""
    known = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "DELETE", "PATCH")
    return scope["method"] if scope["method"] in known else "other"
