"""What every route shares: models, access, limits, metrics, and whether the server drains."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from yearling.server.access import Access
from yearling.server.config import ServerConfig
from yearling.server.errors import HttpError
from yearling.server.generation import Generates, Generation
from yearling.server.metrics import Metrics
from yearling.server.models import ServedModel, ServedModels
from yearling.server.response_store import ResponseStore
from yearling.serving.request import EngineRequest
from yearling.wire.openai.errors import ErrorReply

if TYPE_CHECKING:  # its HTTP client takes time to import, and most servers have no backend
    from yearling.server.backends import Backend

__all__ = ["Service"]


class Service:
    """The state of one running server.

    Attributes:
        is_draining: The server is about to stop: running answers finish, new work is refused.
        num_open_requests: HTTP requests that are being answered.
        backends: Other servers by the names of their models.
        changing_adapters: Held while one is loaded or unloaded.
    """

    def __init__(
        self,
        models: Sequence[ServedModel],
        config: ServerConfig,
        backends: "Sequence[Backend]" = (),
    ) -> None:
        self.backends = {name: backend for backend in backends for name in backend.models}
        self.models = ServedModels(models, elsewhere=self.backends.keys())
        self.config = config
        self.limits = config.limits
        self.access = Access(config)
        self.metrics = Metrics(self.models)
        self.responses = ResponseStore(config.limits)
        self.changing_adapters = asyncio.Lock()
        self.is_draining = False
        self.num_open_requests = 0
        self._observers = {
            model.name: self.metrics.observer(model.name) for model in models if not model.base
        }
        self._running: set[Generation] = set()

    def backend_of(self, body: Mapping[str, Any]) -> "Backend | None":
        """The server that answers a request instead of this one, by the model it names."""
        name = body.get("model")
        return self.backends.get(name) if isinstance(name, str) else None

    def draining_reply(self) -> ErrorReply:
        """The answer to new work while the server drains."""
        return ErrorReply(
            503,
            "The server is shutting down; try again in a moment.",
            "server_error",
            "shutting_down",
            retry_after_seconds=5,
        )

    @asynccontextmanager
    async def generation(
        self,
        model: ServedModel,
        requests: Sequence[EngineRequest],
        engine: Generates | None = None,
    ) -> AsyncIterator[Generation]:
        """Run requests until the context ends, by `engine` where it is not the model's own.

        Raises:
            CapacityError: the queue is full.
        """
        observer = self._observers[model.base or model.name]
        generation = Generation(
            engine or model.engine,
            model.requests(requests),
            model.admission,
            observer,
            self.limits,
        )
        async with generation:
            self._running.add(generation)
            try:
                yield generation
            finally:
                self._running.discard(generation)

    def abort(self) -> None:
        """End every running generation with an error its client sees."""
        for generation in self._running:
            generation.fail(HttpError(self.draining_reply()))
        for backend in set(self.backends.values()):
            backend.abort(self.draining_reply())
