"""One child process per loaded model, behind the face of an engine.

A crash, an out-of-memory kill or an unload ends the child and never the server. Whoever waits
is told at once, and a new child is started: after a short pause that doubles with every crash,
and not at all when crashes come too fast to be an accident.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from pydantic import Field

from yearling.core.config import Config
from yearling.core.environment import child_environment
from yearling.core.errors import RequestError, WorkerLostError, YearlingError
from yearling.serving.adapter_changes import AdapterChanges
from yearling.serving.admission import AdmissionLimits
from yearling.serving.async_engine import EngineState
from yearling.serving.engine import EngineStats
from yearling.serving.messages import (
    AdapterChanged,
    Command,
    FrameReader,
    LoadAdapter,
    Ready,
    Refused,
    Report,
    Start,
    StartFailed,
    StepReport,
    Stop,
    UnloadAdapter,
    decode_report,
    encode_frame,
)
from yearling.serving.request import EngineRequest, OutputEvent
from yearling.serving.streams import StreamTable

__all__ = ["ModelWorker", "RestartPolicy"]

_log = logging.getLogger(__name__)
_READ_BYTES = 1 << 18
_EXIT_SECONDS = 2.0


class RestartPolicy(Config):
    """When a crashed worker is started again."""

    first_pause_seconds: float = Field(default=0.1, ge=0, description="Pause after one crash.")
    longest_pause_seconds: float = Field(default=5.0, ge=0, description="It doubles up to here.")
    max_crashes: int = Field(default=5, ge=0, description="In the window; one more is too many.")
    window_seconds: float = Field(default=60.0, gt=0, description="How long a crash is remembered.")


class ModelWorker:
    """A model in a child process; the same face as `LocalEngine`.

    Start it from a thread that lives as long as it should: the kernel ends the child with the
    thread that started it.

    Attributes:
        name: For messages and logs.
        state: Where it is in its life: `restarting` after a crash, `failed` after too many.
        error: Why it is not ready, or None.
        num_restarts: Children started after a crash.
        adapters: Folders by name, which every child loads.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any],
        *,
        entry: str = "yearling.serving.model:build_engine",
        policy: RestartPolicy | None = None,
    ) -> None:
        """Describe a worker; `start` starts it.

        Args:
            name: For messages and logs.
            arguments: Plain data given to `entry`; for the usual one `path` and `options`, a
                dumped `ModelOptions`.
            entry: `module:function` that returns the engine, in the child.
            policy: When to start it again.
        """
        self.name = name
        self.state: EngineState = "stopped"
        self.error: str | None = None
        self.num_restarts = 0
        self._start_command = Start(entry, dict(arguments))
        self._policy = policy or RestartPolicy()
        self._crashes: deque[float] = deque()
        self._streams = StreamTable()
        self._changes = AdapterChanges()
        self.adapters: dict[str, Path] = {}
        self._stats = EngineStats()
        self._limits: AdmissionLimits | None = None
        self._child: _Child | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether requests are taken now."""
        return self.state == "ready"

    @property
    def pid(self) -> int | None:
        """Process id of the child, while there is one."""
        return None if self._child is None else self._child.process.pid

    def stats(self) -> EngineStats:
        """Counters and gauges after the child's last step; counters begin anew with a child."""
        return self._stats

    async def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Admit a request and yield its events; closing the iterator cancels it."""
        self._check_ready()
        assert self._limits is not None, "a ready child has told its limits"
        events = self._streams.generate(request, self._limits, self._send)
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter; a child that is started again loads it, too."""
        self._check_ready()
        await self._changes.ask(LoadAdapter(name, str(folder)), self._send)
        self.adapters[name] = folder

    async def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter."""
        self._check_ready()
        known = self.adapters.pop(name, None)
        try:
            await self._changes.ask(UnloadAdapter(name), self._send)
        except RequestError:
            if known is None:  # otherwise a child that came after could not load it
                raise

    async def start(self) -> None:
        """Start the child and wait until the model is loaded.

        Raises:
            YearlingError: the model cannot be loaded; the error has its own type.
        """
        self.state, self.error = "starting", None
        self._crashes.clear()
        try:
            child = await self._launch()
        except BaseException as error:
            self.state, self.error = "failed", str(error)
            raise
        self._supervisor = asyncio.create_task(self._supervise(child))

    async def stop(self, drain_seconds: float = 0.0) -> None:
        """Take nothing new, let requests finish for so long, cancel the rest, end the child."""
        if self._supervisor is None:
            self.state = "stopped"
            return
        if self.state == "ready":
            self.state = "stopping"
            await self._streams.drain(drain_seconds)
            self._send(Stop())
            await asyncio.wait([self._supervisor], timeout=_EXIT_SECONDS)
        self.state = "stopping"
        self._supervisor.cancel()
        with suppress(asyncio.CancelledError):
            await self._supervisor
        await self._end_child()
        stopped = WorkerLostError(f"the model {self.name!r} was stopped")
        self._streams.fail_all(stopped)
        self._changes.fail_all(stopped)
        self._supervisor = None
        self.state = "stopped"

    def _check_ready(self) -> None:
        if self.state != "ready":
            reason = f": {self.error}" if self.error else ""
            raise WorkerLostError(f"the model {self.name!r} is {self.state}{reason}")

    async def _launch(self) -> "_Child":
        child = self._child = await _Child.spawn()
        try:
            child.send(self._start_command)
            report = await anext(child.reports, None)
        except BaseException:
            await self._end_child()
            raise
        if isinstance(report, StartFailed):
            await self._end_child()
            raise report.error.to_error()
        if not isinstance(report, Ready):
            how = await self._end_child()
            raise WorkerLostError(f"the worker of {self.name!r} {how} while loading the model.")
        self._limits, self._stats = report.limits, report.stats
        for name, folder in self.adapters.items():  # of the child before
            self._changes.ask_alone(LoadAdapter(name, str(folder)), child.send)
        self.state, self.error = "ready", None
        return child

    async def _supervise(self, child: "_Child") -> None:
        while True:
            async for report in child.reports:
                self._take(report)
            if self.state == "stopping":
                return
            self.state = "restarting"
            lost = WorkerLostError(
                f"the worker process of {self.name!r} ended while serving; try again in a moment."
            )
            self._streams.fail_all(lost)
            self._changes.fail_all(lost)
            how = await self._end_child()
            _log.error("the worker of %r %s", self.name, how)
            self._stats = EngineStats()
            restarted = await self._restart(how)
            if restarted is None:
                return
            child = restarted

    async def _restart(self, how: str) -> "_Child | None":
        """Launch children until one is ready; None when crashes came too fast."""
        while True:
            pause = self._note_crash()
            if pause is None:
                self.state = "failed"
                self.error = (
                    f"the worker crashed {len(self._crashes)} times within "
                    f"{self._policy.window_seconds:g} s and is not started again; "
                    f"the last one {how}"
                )
                _log.error("%s: %s", self.name, self.error)
                return None
            self.error = f"the worker {how}"
            await asyncio.sleep(pause)
            self.num_restarts += 1
            try:
                return await self._launch()
            except (YearlingError, OSError) as error:
                how = f"could not load the model: {error}"

    def _note_crash(self) -> float | None:
        """Seconds to pause before the next start, or None when it should stay down."""
        policy, now = self._policy, time.monotonic()
        self._crashes.append(now)
        while self._crashes[0] < now - policy.window_seconds:
            self._crashes.popleft()
        if len(self._crashes) > policy.max_crashes:
            return None
        pause: float = policy.first_pause_seconds * 2 ** (len(self._crashes) - 1)
        return min(pause, policy.longest_pause_seconds)

    def _take(self, report: Report) -> None:
        if isinstance(report, StepReport):
            self._stats = report.stats
            self._streams.deliver(report.events)
        elif isinstance(report, Refused):
            self._streams.refuse(report.request_id, report.error.to_error())
        elif isinstance(report, AdapterChanged):
            self._changes.take(report)

    def _send(self, command: Command) -> None:
        if self._child is not None:
            self._child.send(command)

    async def _end_child(self) -> str:
        """Make sure the child is gone; say how it ended."""
        if self._child is None:
            return ""
        how = await self._child.end()  # may be cancelled and called again
        self._child = None
        return how


class _Child:
    """A running worker process and the socket to it.

    Attributes:
        process: The child.
        reports: What it says, until it closes its end.
    """

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.process = process
        self._reader = reader
        self._writer = writer
        self._frames = FrameReader()
        self.reports = self._read_reports()

    @classmethod
    async def spawn(cls) -> "_Child":
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a file in the current folder must not stand in for a module
                "-m",
                "yearling.serving.worker_process",
                str(theirs.fileno()),
                str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=child_environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path))),
            )
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(process, reader, writer)

    def send(self, command: Command) -> None:
        """Queue a command; commands to a child that is gone are dropped, as its streams end."""
        self._writer.write(encode_frame(command))

    async def _read_reports(self) -> AsyncGenerator[Report, None]:
        try:
            while data := await self._reader.read(_READ_BYTES):
                for body in self._frames.feed(data):
                    yield decode_report(body)
        except ConnectionError:
            return
        except (ValueError, msgspec.DecodeError):
            _log.exception("worker %d sent what is no report", self.process.pid)

    async def end(self) -> str:
        """Close the socket, kill the child if it stays, and say how it ended."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
        try:
            code = await asyncio.wait_for(self.process.wait(), _EXIT_SECONDS)
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return f"did not end within {_EXIT_SECONDS:g} s and was killed"
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
