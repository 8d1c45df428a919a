"""Running the server: its socket, uvicorn within our limits, and an orderly end."""

import gc
import logging
import resource
import socket
import time
from collections.abc import Callable
from types import FrameType

import uvicorn
from starlette.applications import Starlette

from yearling.server.config import ServerConfig
from yearling.server.protocol import limited_protocol
from yearling.server.service import Service

__all__ = ["DrainingServer", "serve_app"]

_logger = logging.getLogger("yearling.server")
# Streams that were told of the end have this long to send it.
_ABORT_SECONDS = 3


async def serve_app(
    app: Starlette,
    listener: socket.socket,
    *,
    on_listening: Callable[[], None] = lambda: None,
) -> bool:
    """Serve until a signal ends it; give back whether every answer could finish."""
    service: Service = app.state.service
    _raise_file_limit()
    server = DrainingServer(_uvicorn_config(app, service.config), service, on_listening)
    await server.serve(sockets=[listener])
    return not server.was_aborted


class DrainingServer(uvicorn.Server):
    """Lets running answers finish after the first signal, and ends at once after the second.

    While it drains it goes on listening, so that new work is told 503 and when to come back.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, on_listening: Callable[[], None]
    ) -> None:
        super().__init__(config)
        self.was_aborted = False
        self._service = service
        self._on_listening = on_listening
        self._drain_deadline: float | None = None
        self._num_signals = 0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and say so."""
        await super().startup(sockets=sockets)
        # What start-up made stays: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        self._on_listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Note a signal; the loop acts on it at its next tick."""
        self._num_signals += 1

    async def on_tick(self, counter: int) -> bool:
        """Decide ten times a second whether it is time to stop."""
        if self._num_signals and self._drain_deadline is None:
            self._service.is_draining = True
            self._drain_deadline = time.monotonic() + self._service.limits.drain_seconds
            _logger.info("draining: running answers may finish; press Ctrl-C again to end now")
        if self._drain_deadline is not None:
            if self._service.num_open_requests == 0:
                return True
            if self._num_signals > 1 or time.monotonic() > self._drain_deadline:
                self.was_aborted = True
                self._service.abort()
                return True
        return await super().on_tick(counter)


def _uvicorn_config(app: Starlette, config: ServerConfig) -> uvicorn.Config:
    limits = config.limits
    return uvicorn.Config(
        app,
        # uvicorn's own choice would be httptools where installed, which bounds no header.
        http=limited_protocol(limits),
        h11_max_incomplete_event_size=limits.header_bytes,
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.keep_alive_seconds,
        timeout_graceful_shutdown=_ABORT_SECONDS,
        backlog=2048,
    )


def _raise_file_limit() -> None:
    """Allow as many open connections as the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
