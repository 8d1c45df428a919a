"""From an HTTP request to the engine and back: admission, merging answers, leaving clients."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Protocol, Self

from yearling.core.errors import CapacityError, EngineError, RequestError
from yearling.server.errors import HttpError
from yearling.server.limits import Limits
from yearling.serving.request import EngineRequest, OutputEvent
from yearling.wire.openai.errors import ErrorReply

__all__ = ["Admission", "Generates", "Generation", "GenerationObserver"]


class GenerationObserver(Protocol):
    """Counts what generations do; `server/metrics.py` implements it."""

    def tokens_came(self, seconds: float, num_tokens: int, *, is_first: bool) -> None:
        """New tokens came this long after the request started or after the last ones."""
        ...

    def request_ended(self, event: OutputEvent | None, *, reason: str) -> None:
        """A request ended; the event is its last one when there was one."""
        ...


class Generates(Protocol):
    """What a generation needs of an engine."""

    def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Yield the events of a request to the final one."""
        ...


class Admission:
    """Counts the requests of one model that run or wait, and refuses what goes beyond."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.num_requests = 0
        self.num_prompt_tokens = 0

    def enter(self, requests: Sequence[EngineRequest]) -> None:
        """Take requests in, all or none; whoever comes alone always gets in.

        Raises:
            RequestError: they are more than may ever be open.
            CapacityError: the queue is full.
        """
        if len(requests) > self._limits.open_requests:
            raise RequestError(
                f"this asks for {len(requests)} answers at once, and at most "
                f"{self._limits.open_requests} may be open: send fewer prompts, or a smaller n.",
                parameter="n",
            )
        tokens = sum(request.num_prompt_tokens for request in requests)
        self._check_room(len(requests), tokens)
        self.num_requests += len(requests)
        self.num_prompt_tokens += tokens

    def leave(self, requests: Sequence[EngineRequest]) -> None:
        """Give back what `enter` took."""
        self.num_requests -= len(requests)
        self.num_prompt_tokens -= sum(request.num_prompt_tokens for request in requests)

    def check_open(self) -> None:
        """Refuse what `enter` would refuse however small it is, before anything is done for it.

        Raises:
            CapacityError: the queue is full.
        """
        self._check_room(1, 1)

    def _check_room(self, num_requests: int, num_prompt_tokens: int) -> None:
        is_full = (
            self.num_requests + num_requests > self._limits.open_requests
            or self.num_prompt_tokens + num_prompt_tokens > self._limits.open_prompt_tokens
        )
        if is_full and self.num_requests > 0:
            raise CapacityError(
                f"The queue is full: {self.num_requests} requests with {self.num_prompt_tokens} "
                "prompt tokens are running or waiting. Try again in a moment."
            )


class Generation:
    """Some requests of one client, running at once; leaving the context cancels what still runs.

    Every request's events go through one queue, so that a stream can interleave its choices.
    """

    def __init__(
        self,
        engine: Generates,
        requests: Sequence[EngineRequest],
        admission: Admission,
        observer: GenerationObserver,
        limits: Limits,
    ) -> None:
        self.requests = requests
        self._engine = engine
        self._admission = admission
        self._observer = observer
        self._deadline = time.monotonic() + limits.request_seconds
        self._limits = limits
        self._queue: asyncio.Queue[tuple[int, OutputEvent | Exception]] = asyncio.Queue()
        self._pumps: list[asyncio.Task[None]] = []
        self._num_running = len(requests)

    @property
    def is_done(self) -> bool:
        """Whether the last event of every request has been handed out."""
        return self._num_running == 0

    async def __aenter__(self) -> Self:
        """Admit and start the requests.

        Raises:
            RequestError: they are more than may ever be open.
            CapacityError: the queue is full.
        """
        self._admission.enter(self.requests)
        self._pumps = [
            asyncio.create_task(self._pump(index, request))
            for index, request in enumerate(self.requests)
        ]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Cancel what still runs and give its place free."""
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        self._admission.leave(self.requests)

    def fail(self, error: Exception) -> None:
        """Make the next event an error, whatever the engine does."""
        for pump in self._pumps:
            pump.cancel()
        self._queue.put_nowait((0, error))

    async def next_event(self, silence_seconds: float) -> tuple[int, OutputEvent] | None:
        """Wait for the next event and whose it is; None when all stay silent for so long.

        Raises:
            YearlingError: a request failed; the others are cancelled on leaving the context.
        """
        patience = min(silence_seconds, self._deadline - time.monotonic())
        try:
            async with asyncio.timeout(max(patience, 0.0)):
                index, item = await self._queue.get()
        except TimeoutError:
            if time.monotonic() >= self._deadline:
                raise _took_too_long(self._limits) from None
            return None
        if isinstance(item, Exception):
            raise item
        if item.finish_reason in ("error", "cancelled"):
            if item.parameter is not None:
                raise RequestError(item.error or "", parameter=item.parameter)
            raise EngineError(item.error or "The engine gave this request up.")
        if item.finish_reason is not None:
            self._num_running -= 1
        return index, item

    async def _pump(self, index: int, request: EngineRequest) -> None:
        last: OutputEvent | None = None
        reason = "cancelled"
        try:
            last = await self._forward(index, request)
            reason = last.finish_reason or "error"
        except Exception as error:
            reason = "error"
            self._queue.put_nowait((index, error))
        finally:
            self._observer.request_ended(last, reason=reason)

    async def _forward(self, index: int, request: EngineRequest) -> OutputEvent:
        clock = time.monotonic()
        is_first = True
        async with aclosing(self._engine.generate(request)) as events:
            async for event in events:
                if event.tokens:
                    now = time.monotonic()
                    self._observer.tokens_came(now - clock, len(event.tokens), is_first=is_first)
                    clock, is_first = now, False
                self._queue.put_nowait((index, event))
                if event.finish_reason is not None:
                    return event
        raise EngineError("The engine ended this request without a last event.")


def _took_too_long(limits: Limits) -> HttpError:
    return HttpError(
        ErrorReply(
            504,
            f"The request took longer than {limits.request_seconds} seconds, the limit here.",
            "server_error",
            "request_timeout",
        )
    )
