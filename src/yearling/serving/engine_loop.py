"""The loop around an engine: commands in, a step, a report out."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from yearling.core.errors import YearlingError
from yearling.serving.admission import AdmissionLimits
from yearling.serving.engine import EngineStats
from yearling.serving.messages import (
    AdapterChanged,
    Add,
    Cancel,
    Command,
    Embed,
    ErrorReport,
    LoadAdapter,
    Refused,
    Report,
    StepReport,
    Stop,
    UnloadAdapter,
)
from yearling.serving.request import EngineRequest, OutputEvent

__all__ = ["Channel", "SteppedEngine", "run_engine"]


class SteppedEngine(Protocol):
    """What the loop needs of an engine: `Engine` generates, `EncoderEngine` gives vectors."""

    @property
    def limits(self) -> AdmissionLimits:
        """What `add` checks."""
        ...

    @property
    def error(self) -> str | None:
        """Why the engine is broken, or None while it works."""
        ...

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""
        ...

    def add(self, request: EngineRequest) -> None:
        """Admit a request; its events come from `step`.

        Raises:
            YearlingError: it is refused, now or for ever.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """End a request at once; one that has ended already is left alone."""
        ...

    def cancel_all(self) -> None:
        """End every request."""
        ...

    def load_adapter(self, name: str, folder: Path) -> None:
        """Let requests name an adapter.

        Raises:
            YearlingError: it cannot be loaded.
        """
        ...

    def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter.

        Raises:
            YearlingError: there is none of that name.
        """
        ...

    def step(self) -> list[OutputEvent]:
        """Bring requests forward and return the news; never raises."""
        ...

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment."""
        ...


class Channel(Protocol):
    """Where commands come from and reports go to."""

    def receive(self, *, is_blocking: bool) -> Sequence[Command]:
        """Commands that have arrived, waiting for the first when blocking.

        Raises:
            EOFError: the other side is gone.
        """
        ...

    def send(self, report: Report) -> None:
        """Pass a report on.

        Raises:
            EOFError: the other side is gone.
        """
        ...


def run_engine(engine: SteppedEngine, channel: Channel) -> None:
    """Serve commands until told to stop, or until the engine breaks (`engine.error` says why).

    Raises:
        EOFError: the other side is gone.
    """
    is_stopping = False
    while not is_stopping and engine.error is None:
        for command in channel.receive(is_blocking=not engine.has_work):
            is_stopping = isinstance(command, Stop) or is_stopping
            _obey(engine, command, channel)
        if is_stopping:
            engine.cancel_all()
        channel.send(StepReport(engine.step(), engine.stats()))


def _obey(engine: SteppedEngine, command: Command, channel: Channel) -> None:
    match command:
        case Add(request) | Embed(request):
            try:
                engine.add(request)
            except YearlingError as error:
                channel.send(Refused(request.request_id, ErrorReport.of(error)))
        case Cancel(request_id):
            engine.cancel(request_id)
        case LoadAdapter(name, folder):
            channel.send(_outcome(lambda: engine.load_adapter(name, Path(folder))))
        case UnloadAdapter(name):
            channel.send(_outcome(lambda: engine.unload_adapter(name)))


def _outcome(change: Callable[[], None]) -> AdapterChanged:
    try:
        change()
    except Exception as error:  # a file that nobody thought of must not end the others' answers
        return AdapterChanged(ErrorReport.of(error))
    return AdapterChanged()
