"""The asynchronous side of an engine: one stream of events per open request."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress

from yearling.core.errors import RequestError, YearlingError
from yearling.serving.admission import AdmissionLimits
from yearling.serving.messages import Cancel, Command, admission_command
from yearling.serving.request import EngineRequest, OutputEvent

__all__ = ["StreamTable"]


class _Stream:
    """Events of one request that its reader has not taken yet.

    The buffer needs no bound of its own: a request has at most `max_tokens` events, however
    slow its reader is, and nobody else waits for them to be read.
    """

    def __init__(self) -> None:
        self._items: deque[OutputEvent | YearlingError] = deque()
        self._has_items = asyncio.Event()

    def put(self, item: OutputEvent | YearlingError) -> None:
        self._items.append(item)
        self._has_items.set()

    async def take(self) -> OutputEvent:
        while not self._items:
            self._has_items.clear()
            await self._has_items.wait()
        item = self._items.popleft()
        if isinstance(item, YearlingError):
            raise item
        return item


class StreamTable:
    """Open streams by request id; used from the event loop only.

    A stream stays open until its final event has arrived, even when its reader has left, so
    that the number of open streams is what the engine is really busy with.
    """

    def __init__(self) -> None:
        self._streams: dict[str, _Stream] = {}
        self._is_empty = asyncio.Event()
        self._is_empty.set()

    def __len__(self) -> int:
        """Requests that have not had their final event."""
        return len(self._streams)

    async def generate(
        self,
        request: EngineRequest,
        limits: AdmissionLimits,
        send: Callable[[Command], None],
    ) -> AsyncGenerator[OutputEvent, None]:
        """Admit a request and yield its events; closing the iterator early cancels it.

        Raises:
            RequestError: it can never be served as asked.
            CapacityError: too many requests are open.
        """
        limits.check(request, len(self._streams))
        stream = self._open(request)
        try:
            send(admission_command(request))
            while True:
                event = await stream.take()
                yield event
                if event.finish_reason is not None:
                    return
        finally:
            if self._streams.get(request.request_id) is stream:
                send(Cancel(request.request_id))

    def deliver(self, events: Iterable[OutputEvent]) -> None:
        """Hand events to their streams; a final event closes its stream."""
        for event in events:
            stream = self._streams.get(event.request_id)
            if stream is None:
                continue
            stream.put(event)
            if event.finish_reason is not None:
                self._close(event.request_id)

    def refuse(self, request_id: str, error: YearlingError) -> None:
        """End a stream with an error, such as that the engine did not admit its request."""
        stream = self._streams.get(request_id)
        if stream is not None:
            stream.put(error)
            self._close(request_id)

    def fail_all(self, error: YearlingError) -> None:
        """End every open stream with this error, behind what it has not read yet."""
        for request_id in list(self._streams):
            self.refuse(request_id, error)

    async def drain(self, seconds: float) -> None:
        """Wait until every open stream has had its final event, but no longer than this."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._is_empty.wait(), seconds)

    def _open(self, request: EngineRequest) -> _Stream:
        if request.request_id in self._streams:
            raise RequestError(f"request id {request.request_id!r} is already running.")
        stream = self._streams[request.request_id] = _Stream()
        self._is_empty.clear()
        return stream

    def _close(self, request_id: str) -> None:
        del self._streams[request_id]
        if not self._streams:
            self._is_empty.set()
