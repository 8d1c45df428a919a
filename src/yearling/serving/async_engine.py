"""The face of an engine towards asyncio, and the engine in a thread of this process."""

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Literal, Protocol

from yearling.core.errors import EngineError
from yearling.serving.adapter_changes import AdapterChanges
from yearling.serving.engine import EngineStats
from yearling.serving.engine_loop import SteppedEngine, run_engine
from yearling.serving.messages import (
    AdapterChanged,
    Command,
    LoadAdapter,
    Refused,
    Report,
    StepReport,
    Stop,
    UnloadAdapter,
)
from yearling.serving.request import EngineRequest, OutputEvent
from yearling.serving.streams import StreamTable

__all__ = ["AsyncEngine", "EngineState", "LocalEngine"]

EngineState = Literal["stopped", "starting", "ready", "restarting", "stopping", "failed"]


class AsyncEngine(Protocol):
    """What servers use: `LocalEngine` in this process, `ModelWorker` in a child process.

    All calls belong to one event loop.
    """

    @property
    def state(self) -> EngineState:
        """Where the engine is in its life; requests are taken while it is `ready`."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken now."""
        ...

    @property
    def error(self) -> str | None:
        """Why it is not ready, when something went wrong."""
        ...

    def stats(self) -> EngineStats:
        """Counters and gauges after the last step."""
        ...

    def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Admit a request on the first `anext` and yield its events to the final one.

        Closing the iterator cancels the request. A slow reader holds up nobody: its events
        wait in memory, at most `max_tokens` of them.

        Raises:
            RequestError: the request can never be served as asked.
            CapacityError: too many requests are open.
            EngineError: the engine is not ready.
        """
        ...

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter.

        Raises:
            YearlingError: it cannot be loaded; the error has its own type.
            EngineError: the engine is not ready.
        """
        ...

    async def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter; those that run with it go on.

        Raises:
            RequestError: there is none of that name.
            EngineError: the engine is not ready.
        """
        ...

    async def start(self) -> None:
        """Become ready.

        Raises:
            YearlingError: the model cannot be loaded; the error has its own type.
        """
        ...

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let requests finish for so long, cancel the rest, and end."""
        ...


class LocalEngine:
    """An engine stepping in a thread of this process; the caller keeps the executor.

    Attributes:
        state: Where it is in its life.
    """

    def __init__(self, engine: SteppedEngine) -> None:
        self.state: EngineState = "stopped"
        self._engine = engine
        self._stats = engine.stats()
        self._streams = StreamTable()
        self._changes = AdapterChanges()
        self._channel = _ThreadChannel(self._take)
        self._thread: threading.Thread | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken now."""
        return self.state == "ready"

    @property
    def error(self) -> str | None:
        """Why the engine broke, or None."""
        return self._engine.error

    def stats(self) -> EngineStats:
        """Counters and gauges after the last step."""
        return self._stats

    async def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Admit a request and yield its events; closing the iterator cancels it."""
        self._check_ready()
        events = self._streams.generate(request, self._engine.limits, self._channel.command)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter."""
        self._check_ready()
        await self._changes.ask(LoadAdapter(name, str(folder)), self._channel.command)

    async def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter."""
        self._check_ready()
        await self._changes.ask(UnloadAdapter(name), self._channel.command)

    async def start(self) -> None:
        """Start the thread."""
        self._channel.loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()
        self.state = "ready"

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let requests finish for so long, cancel the rest, end the thread."""
        if self._thread is None:
            return
        self.state = "stopping"
        await self._streams.drain(drain_seconds)
        self._channel.command(Stop())
        await asyncio.to_thread(self._thread.join)
        self._changes.fail_all(EngineError("the engine was stopped"))
        self._thread = None
        self.state = "stopped"

    def _check_ready(self) -> None:
        if not self.is_ready:
            raise EngineError(self.error or f"the engine is {self.state}: try again in a moment.")

    def _run(self) -> None:
        try:
            run_engine(self._engine, self._channel)
        except EOFError:
            return

    def _take(self, report: Report) -> None:
        if isinstance(report, Refused):
            self._streams.refuse(report.request_id, report.error.to_error())
        elif isinstance(report, AdapterChanged):
            self._changes.take(report)
        elif isinstance(report, StepReport):
            self._stats = report.stats
            self._streams.deliver(report.events)
            if self._engine.error is not None and self.state == "ready":
                self.state = "failed"
                broken = EngineError(self._engine.error)
                self._streams.fail_all(broken)
                self._changes.fail_all(broken)


class _ThreadChannel:
    """Commands through a queue, reports through the event loop's own."""

    def __init__(self, take: Callable[[Report], None]) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._take = take
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def command(self, command: Command) -> None:
        self._commands.put(command)

    def receive(self, *, is_blocking: bool) -> Sequence[Command]:
        commands = [self._commands.get()] if is_blocking else []
        while not self._commands.empty():
            commands.append(self._commands.get_nowait())
        return commands

    def send(self, report: Report) -> None:
        assert self.loop is not None, "started before"
        try:
            self.loop.call_soon_threadsafe(self._take, report)
        except RuntimeError as error:  # the loop is closed, so nobody is left to tell
            raise EOFError from error
