"""Asking an engine elsewhere to load or unload adapters, and waiting for its answers."""

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from yearling.core.errors import YearlingError
from yearling.serving.messages import AdapterChanged, Command

__all__ = ["AdapterChanges"]

_log = logging.getLogger(__name__)


class AdapterChanges:
    """Changes that were asked for; an engine answers in the order of the commands.

    Used from the event loop only.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def ask(self, command: Command, send: Callable[[Command], None]) -> None:
        """Send a change and wait until it is made.

        Raises:
            YearlingError: it cannot be made; the error has its own type.
        """
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        send(command)
        await answer

    def ask_alone(self, command: Command, send: Callable[[Command], None]) -> None:
        """Send a change that nobody waits for; that it cannot be made is logged."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(_log_failure)
        self._waiting.append(answer)
        send(command)

    def take(self, report: AdapterChanged) -> None:
        """Use the engine's next answer."""
        answer = self._waiting.popleft()
        if answer.done():  # whoever asked has left
            return
        if report.error is None:
            answer.set_result(None)
        else:
            answer.set_exception(report.error.to_error())

    def fail_all(self, error: YearlingError) -> None:
        """No answer will come any more."""
        while self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():
                answer.set_exception(error)


def _log_failure(answer: asyncio.Future[None]) -> None:
    error = None if answer.cancelled() else answer.exception()
    if error is not None:
        _log.error("an adapter is not served any more: %s", error)
