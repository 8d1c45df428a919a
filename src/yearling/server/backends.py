"""Models of another server that speaks OpenAI's API, behind this one's address, keys and page.

A request's body goes there, field by field, and the answer comes back as it is: which fields are
known is the other server's to say. This one adds what it demands of everybody: its keys, its
hosts, its bounds on bodies.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Mapping
from typing import Any, TypeVar

import httpx
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from yearling.core.errors import ConfigError
from yearling.server.config import BackendSettings
from yearling.server.errors import HttpError
from yearling.server.streaming import unless_client_leaves
from yearling.wire.openai.errors import ErrorReply
from yearling.wire.openai.models import model_object

__all__ = ["Backend"]

_Result = TypeVar("_Result")
_log = logging.getLogger(__name__)

_PREFIX = "/v1"
# A long prompt may take minutes to its first token.
_PATIENCE = httpx.Timeout(10, read=600)
_LISTING_SECONDS = 10
# How many requests may be open is the backend's to say.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=32)
_REFUSALS = frozenset({401, 403, 407})
_KEPT_HEADERS = ("content-type", "retry-after")


class Backend:
    """One other server.

    Args:
        settings: Its address and key.

    Attributes:
        owner: Whose its models are.
        models: Its models by name, as the list of models shows them; known after the start.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self._url, self.owner = settings.url.rstrip("/"), settings.owner
        key = settings.key
        headers = {} if key is None else {"authorization": f"Bearer {key.get_secret_value()}"}
        # Surroundings must not decide where prompts go: no proxies or keys from variables.
        self._client = httpx.AsyncClient(
            headers=headers, timeout=_PATIENCE, trust_env=False, limits=_LIMITS
        )
        self.models: Mapping[str, dict[str, Any]] = {}
        self._end: asyncio.Future[ErrorReply] | None = None

    async def start(self) -> None:
        """Ask for its models.

        Raises:
            ConfigError: it does not answer as OpenAI's API does.
        """
        self._end = asyncio.get_running_loop().create_future()
        try:
            reply = await self._client.get(f"{self._url}/models", timeout=_LISTING_SECONDS)
            reply.raise_for_status()
            self.models = {
                str(entry["id"]): self._described(entry) for entry in reply.json()["data"]
            }
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"The backend at {self.owner} did not list its models: "
                f"{type(error).__name__} {error}.\n"
                "  Give the address of its API, as in --backend openai:http://127.0.0.1:8080/v1, "
                "and with --backend-key the key that it demands."
            ) from error

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    def abort(self, reply: ErrorReply) -> None:
        """End every answer that is on its way, with an error its client sees."""
        if self._end is not None and not self._end.done():
            self._end.set_result(reply)

    async def forward(self, request: Request, body: Mapping[str, Any]) -> Response:
        """Pass a request on, and its answer back.

        Args:
            request: As it came.
            body: Its parsed body.

        Raises:
            HttpError: 502, the backend cannot be reached or broke off; or what `abort` was given.
        """
        path = request.url.path.removeprefix(_PREFIX)
        outgoing = self._client.build_request(
            "POST",
            self._url + path,
            content=json.dumps(body).encode(),
            headers={"content-type": "application/json"},
        )
        try:
            sending = self._or_end(self._client.send(outgoing, stream=True))
            reply = await unless_client_leaves(request, sending)
            if reply.is_redirect or reply.status_code in _REFUSALS:
                await reply.aclose()
                raise HttpError(self._refused(reply.status_code))
            headers = {name: reply.headers[name] for name in _KEPT_HEADERS if name in reply.headers}
            if reply.headers.get("content-type", "").startswith("text/event-stream"):
                return _Passed(reply, headers, self._pieces(reply))
            content = await unless_client_leaves(request, self._or_end(_whole(reply)))
        except httpx.HTTPError as error:
            raise HttpError(self._unreachable(error)) from error
        return Response(content, reply.status_code, headers)

    async def _or_end(self, work: Awaitable[_Result]) -> _Result:
        """Wait for work, as long as nothing ends it.

        Raises:
            HttpError: something did.
        """
        assert self._end is not None, "it was started"
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._end), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise HttpError(self._end.result())
            return working.result()
        except (HttpError, asyncio.CancelledError):
            # Whoever asked is gone: so must be what was just coming, all of it.
            working.cancel()
            (left,) = await asyncio.gather(working, return_exceptions=True)
            if isinstance(left, httpx.Response):
                await left.aclose()
            raise

    async def _pieces(self, reply: httpx.Response) -> AsyncIterator[bytes]:
        pieces = aiter(reply.aiter_bytes())
        try:
            while (piece := await self._or_end(anext(pieces, None))) is not None:
                yield piece
            return
        except HttpError as error:
            said = error.reply
        except httpx.HTTPError as error:
            said = ErrorReply(
                502, f"The backend broke off ({type(error).__name__}).", "server_error",
                "backend_unreachable",
            )  # fmt: skip
        yield f"data: {json.dumps(said.payload())}\n\n".encode()

    def _described(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        context, created = entry.get("max_model_len"), entry.get("created")
        return model_object(
            str(entry["id"]),
            created=created if isinstance(created, int) else 0,
            context_tokens=context if isinstance(context, int) else None,
            owner=self.owner,
        )

    def _refused(self, status: int) -> ErrorReply:
        """What a client is told when the backend refuses us: that is nothing it can mend."""
        _log.error("the backend at %s answered %d: is --backend-key right?", self.owner, status)
        return ErrorReply(
            502, "The backend of this model refused us.", "server_error", "backend_refused"
        )

    def _unreachable(self, error: httpx.HTTPError) -> ErrorReply:
        return ErrorReply(
            502,
            f"The backend of this model did not answer ({type(error).__name__}); try again soon.",
            "server_error",
            "backend_unreachable",
        )


class _Passed(StreamingResponse):
    """A stream as it comes; closed, and with it the backend's work, however it ends."""

    def __init__(
        self, reply: httpx.Response, headers: Mapping[str, str], pieces: AsyncIterator[bytes]
    ) -> None:
        super().__init__(pieces, reply.status_code, headers)
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._reply.aclose()


async def _whole(reply: httpx.Response) -> bytes:
    try:
        return await reply.aread()
    finally:
        await reply.aclose()
