"""Models that are loaded when they are asked for, within a budget of memory.

Each has a process of its own. When a model is wanted and those loaded leave too little memory,
the one that has been idle the longest is ended; a model that answers somebody never is.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

from yearling.core.errors import CapacityError
from yearling.serving.async_engine import EngineState
from yearling.serving.engine import EngineStats
from yearling.serving.request import EngineRequest, OutputEvent
from yearling.serving.worker import ModelWorker

__all__ = ["ModelMemory", "OnDemandEngine"]


class OnDemandEngine:
    """A model's engine that is there when it is used; the same face as its worker's.

    Attributes:
        worker: Its process, which may not run.
        weight_bytes: Size of its files: what it will take at least.
        num_users: Requests that are using it.
        last_used: Moment of the last use, by the monotonic clock.
        loading: What loads it, for everybody who waits.
    """

    def __init__(self, worker: ModelWorker, weight_bytes: int, memory: "ModelMemory") -> None:
        self.worker = worker
        self.weight_bytes = weight_bytes
        self.num_users = 0
        self.last_used = 0.0
        self.loading: asyncio.Task[None] | None = None
        self._memory = memory
        memory.engines.append(self)

    @property
    def state(self) -> EngineState:
        """Where it is in its life: a model that is not loaded takes requests as well."""
        return "ready"

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken now."""
        return True

    @property
    def error(self) -> str | None:
        """Why it is not ready, or None."""
        return self.worker.error

    def stats(self) -> EngineStats:
        """Counters and gauges; counters begin anew with each loading."""
        return self.worker.stats() if self.worker.is_ready else EngineStats()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Load the model if need be, admit a request and yield its events."""
        async with self._memory.using(self):
            events = self.worker.generate(request)
            try:
                async for event in events:
                    yield event
            finally:
                await events.aclose()

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter; it comes back whenever the model does."""
        async with self._memory.using(self):
            await self.worker.load_adapter(name, folder)

    async def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter; a model that is not loaded stays so."""
        if self.worker.is_ready:
            await self.worker.unload_adapter(name)
        else:
            self.worker.adapters.pop(name, None)

    def remember_adapter(self, name: str, folder: Path, model: Path) -> None:
        """Have the model come with an adapter whenever it is loaded; loads nothing now.

        Raises:
            ModelError: the adapter cannot be read, or is of another model.
        """
        from yearling.models.adapter import read_adapter
        from yearling.models.checkpoint import open_checkpoint

        with closing(open_checkpoint(model)) as checkpoint:
            read_adapter(folder, checkpoint.spec)
        self.worker.adapters[name] = folder

    async def start(self) -> None:
        """Load nothing: that is done for the first request.

        Raises:
            CapacityError: the model would not fit into the memory of an empty server.
        """
        self._memory.check(self)

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Let requests finish for so long, cancel the rest, end the process."""
        await self.worker.stop(drain_seconds)


class ModelMemory:
    """What all models of a server may take together.

    Attributes:
        limit_bytes: Resident memory of all their processes.
        engines: Every model, loaded or not.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.engines: list[OnDemandEngine] = []
        self._changing = asyncio.Lock()

    @asynccontextmanager
    async def using(self, engine: OnDemandEngine) -> AsyncIterator[None]:
        """Have a model loaded for as long as the context lasts.

        Raises:
            CapacityError: it does not fit beside the models that answer somebody.
            YearlingError: it cannot be loaded; the error has its own type.
        """
        engine.num_users += 1
        try:
            if not engine.worker.is_ready:
                await self._loaded(engine)
            yield
        finally:
            engine.num_users -= 1
            engine.last_used = time.monotonic()

    def check(self, engine: OnDemandEngine) -> None:
        """Refuse a model that can never be loaded.

        Raises:
            CapacityError: its files alone are larger than the limit.
        """
        if not self._fits(engine, ()):
            raise CapacityError(self._refusal(engine, ()))

    async def _loaded(self, engine: OnDemandEngine) -> None:
        """Wait until a model is loaded; whoever leaves meanwhile stops nothing half way."""
        if engine.loading is None or engine.loading.done():
            engine.loading = asyncio.create_task(self._load(engine))
            engine.loading.add_done_callback(_note_failure)
        await asyncio.shield(engine.loading)

    async def _load(self, wanted: OnDemandEngine) -> None:
        async with self._changing:
            if wanted.worker.is_ready:
                return
            loaded = [engine for engine in self.engines if engine.worker.pid is not None]
            while not self._fits(wanted, loaded):
                idle = [engine for engine in loaded if engine.num_users == 0]
                if not idle:
                    raise CapacityError(self._refusal(wanted, loaded))
                victim = min(idle, key=lambda engine: engine.last_used)
                await victim.worker.stop()
                loaded.remove(victim)
            await wanted.worker.start()

    def _fits(self, wanted: OnDemandEngine, loaded: "Sequence[OnDemandEngine]") -> bool:
        taken = sum(_resident_bytes(engine.worker.pid) for engine in loaded)
        return taken + wanted.weight_bytes <= self.limit_bytes

    def _refusal(self, wanted: OnDemandEngine, loaded: "Sequence[OnDemandEngine]") -> str:
        name, limit = wanted.worker.name, self.limit_bytes >> 20
        need = wanted.weight_bytes >> 20
        if not loaded:
            return (
                f"the model {name} takes {need} MiB at least, and all models together may take "
                f"{limit}: start the server with a larger --model-memory."
            )
        busy = ", ".join(engine.worker.name for engine in loaded)
        return (
            f"the model {name} takes {need} MiB at least, which {busy} leave no room for within "
            f"{limit} MiB while they answer. Try again in a moment."
        )


def _resident_bytes(pid: int | None) -> int:
    """Resident memory of a process; 0 when it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _note_failure(loading: "asyncio.Task[None]") -> None:
    """Look at the outcome, so that asyncio does not complain where everybody has left."""
    if not loading.cancelled():
        loading.exception()
