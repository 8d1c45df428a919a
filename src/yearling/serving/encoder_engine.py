"""The engine of an encoder: texts of all open requests share steps, and vectors come back.

Legend: N texts, E numbers of a vector.
"""

import logging
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

from yearling.core.errors import EngineError, RequestError, UnsupportedError
from yearling.serving.admission import AdmissionLimits
from yearling.serving.engine import EngineStats
from yearling.serving.request import (
    EmbeddingRequest,
    EngineRequest,
    FinishReason,
    OutputEvent,
    Usage,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Embedder", "EncoderEngine"]

_log = logging.getLogger(__name__)
_NOT_FINITE = "the model's vector is not finite: its weights, or a step, are broken."


class Embedder(Protocol):
    """The part of an executor that turns texts into vectors.

    Attributes:
        max_step_tokens: Tokens one step may hold; a text is never cut.
    """

    max_step_tokens: int

    def embed(self, sequences: "Sequence[Sequence[int]]") -> "NDArray[np.float32]":
        """One vector per sequence of token ids: (N, E)."""
        ...


class EncoderEngine:
    """Turns embedding requests into vectors; used from one thread at a time, as `Engine` is.

    Open requests take turns text by text, so that a long list holds up nobody. Every admitted
    request gets exactly one event, whatever happens to it or to the executor.

    Attributes:
        limits: What `add` checks.
        error: Why the engine is broken, or None while it works.
    """

    def __init__(
        self,
        executor: Embedder,
        *,
        context: int,
        vocabulary: int | None = None,
        max_requests: int | None = None,
    ) -> None:
        """Build an engine over a loaded encoder.

        Args:
            executor: Runs the model; owned by the caller.
            context: Tokens of one text.
            vocabulary: Refuse token ids from here on; None checks nothing.
            max_requests: Requests open at once; None sets no limit.
        """
        self.limits = AdmissionLimits(
            context=min(context, executor.max_step_tokens),
            max_requests=max_requests,
            vocabulary=vocabulary,
            can_generate=False,
        )
        self.error: str | None = None
        self._executor = executor
        self._open: dict[str, _Embedding] = {}
        self._turns: deque[_Embedding] = deque()
        self._news: list[OutputEvent] = []
        self._counts = _Counts()

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do or to tell."""
        return bool(self._open or self._news)

    def add(self, request: EngineRequest) -> None:
        """Admit a request; its one event comes from `step`.

        Raises:
            RequestError: it can never be served as asked (`UnsupportedError` when it is to
                generate text).
            CapacityError: too many requests are open.
            EngineError: the engine is broken.
        """
        if self.error is not None:
            raise EngineError(self.error)
        self.limits.check(request, len(self._open))
        assert isinstance(request, EmbeddingRequest), "the limits let nothing else through"
        if request.request_id in self._open:
            raise RequestError(f"request id {request.request_id!r} is already running.")
        embedding = self._open[request.request_id] = _Embedding(request)
        self._turns.append(embedding)
        self._counts.prompt_tokens += request.num_prompt_tokens

    def cancel(self, request_id: str) -> None:
        """End a request at once; one that has ended already is left alone."""
        if request_id in self._open:
            self._news.append(self._end(self._open[request_id], "cancelled"))

    def cancel_all(self) -> None:
        """End every request."""
        for request_id in list(self._open):
            self.cancel(request_id)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Refuse.

        Raises:
            UnsupportedError: an encoder serves no adapters.
        """
        raise UnsupportedError("an encoder serves no adapters.", parameter="adapter")

    def unload_adapter(self, name: str) -> None:
        """Refuse, as `load_adapter` does."""
        self.load_adapter(name, Path())

    def step(self) -> list[OutputEvent]:
        """Compute the next texts, as many as fit, and return the news.

        When the executor raises, every open request ends with an error event and the engine is
        broken.
        """
        started = perf_counter()
        events, self._news = self._news, []
        texts = self._choose()
        if not texts:
            return events
        try:
            vectors = self._executor.embed([tokens for _, tokens in texts])
        except Exception as error:
            _log.exception("the engine failed in a step")
            self.error = f"the engine failed: {type(error).__name__}: {error}"
            return [*events, *(self._end(e, "error", self.error) for e in [*self._open.values()])]
        self._counts.executor_seconds += perf_counter() - started
        events += self._take([embedding for embedding, _ in texts], vectors)
        self._counts.num_steps += 1
        self._counts.step_seconds += perf_counter() - started
        return events

    def stats(self) -> EngineStats:
        """Counters and gauges of this moment; an encoder has no cache and generates nothing."""
        counts = self._counts
        return EngineStats(
            num_running=len(self._open),
            prompt_tokens=counts.prompt_tokens,
            num_steps=counts.num_steps,
            step_seconds=counts.step_seconds,
            executor_seconds=counts.executor_seconds,
        )

    def _choose(self) -> "list[tuple[_Embedding, Sequence[int]]]":
        """Take the next text of each request in turn until one does not fit the step."""
        chosen: list[tuple[_Embedding, Sequence[int]]] = []
        tokens_left = self._executor.max_step_tokens
        while self._turns:
            embedding = self._turns[0]
            tokens = embedding.request.inputs[embedding.num_chosen]
            if len(tokens) > tokens_left:
                break
            tokens_left -= len(tokens)
            chosen.append((embedding, tokens))
            embedding.num_chosen += 1
            self._turns.popleft()
            if embedding.num_chosen < len(embedding.request.inputs):
                self._turns.append(embedding)
        return chosen

    def _take(
        self, embeddings: "Sequence[_Embedding]", vectors: "NDArray[np.float32]"
    ) -> list[OutputEvent]:
        """Give each request its vectors (N, E); events of those that are complete."""
        import numpy as np

        events = []
        for embedding, vector in zip(embeddings, vectors, strict=True):
            if embedding.request.request_id not in self._open:  # an earlier vector was broken
                continue
            if not np.isfinite(vector).all():
                events.append(self._end(embedding, "error", _NOT_FINITE))
                continue
            embedding.vectors.append(vector.astype("<f4").tobytes())
            if len(embedding.vectors) == len(embedding.request.inputs):
                events.append(self._end(embedding, "stop"))
        return events

    def _end(
        self, embedding: "_Embedding", reason: FinishReason, error: str | None = None
    ) -> OutputEvent:
        request = embedding.request
        del self._open[request.request_id]
        if embedding in self._turns:
            self._turns.remove(embedding)
        return OutputEvent(
            request.request_id,
            finish_reason=reason,
            usage=Usage(request.num_prompt_tokens, 0),
            error=error,
            vectors=b"".join(embedding.vectors) if reason == "stop" else b"",
        )


@dataclass(eq=False, slots=True)
class _Embedding:
    """One open request, how many of its texts were chosen, and the vectors it has so far."""

    request: EmbeddingRequest
    num_chosen: int = 0
    vectors: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Counts:
    prompt_tokens: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    executor_seconds: float = 0.0
