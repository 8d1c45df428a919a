"""The loop around an engine: commands in, a step, a report out."""

from collections.abc import Sequence
from typing import Protocol

from yearling.core.errors import YearlingError
from yearling.serving.engine import Engine
from yearling.serving.messages import (
    Add,
    Cancel,
    Command,
    ErrorReport,
    Refused,
    Report,
    StepReport,
    Stop,
)

__all__ = ["Channel", "run_engine"]


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


def run_engine(engine: Engine, channel: Channel) -> None:
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


def _obey(engine: Engine, command: Command, channel: Channel) -> None:
    match command:
        case Add(request):
            try:
                engine.add(request)
            except YearlingError as error:
                channel.send(Refused(request.request_id, ErrorReport.of(error)))
        case Cancel(request_id):
            engine.cancel(request_id)
