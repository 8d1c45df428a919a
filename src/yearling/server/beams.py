"""Beam search over an engine that knows nothing of it: every step of a search is a request each."""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from yearling.core.errors import CapacityError, EngineError, RequestError
from yearling.serving.async_engine import AsyncEngine
from yearling.serving.beams import Beam, alternatives_of, beam_search
from yearling.serving.detokenizer import Pieces, TokenText, text_of
from yearling.serving.request import EngineRequest, GenerationRequest, OutputEvent, Usage
from yearling.wire.openai.beams import Beams

__all__ = ["BeamEngine"]

_RETRY_SECONDS = 0.05


class BeamEngine:
    """Answers the requests of one HTTP request: as many to a prompt as its search is wide.

    The first of a prompt begins the search; each gets the beam of its own place.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        requests: Sequence[GenerationRequest],
        beams: Beams,
        *,
        ends: Collection[int],
        context: int,
        tokenizer: TokenText,
    ) -> None:
        """Search on behalf of requests that `generate` will be given.

        Args:
            engine: Answers the steps.
            requests: All of them, those of a prompt one after the other.
            beams: How to search.
            ends: Token ids that end an answer.
            context: Tokens of prompt and answer together.
            tokenizer: Of the model.
        """
        self._engine = engine
        self._beams = beams
        self._ends = ends
        self._context = context
        self._pieces = Pieces(tokenizer)
        self._places = {
            request.request_id: divmod(number, beams.width)
            for number, request in enumerate(requests)
        }
        self._searches: dict[int, asyncio.Task[_Found]] = {}
        self._waiting: Counter[int] = Counter()

    async def generate(self, request: EngineRequest) -> AsyncGenerator[OutputEvent, None]:
        """Yield one event: the whole answer of a request.

        A search ends when nobody waits for it any more.
        """
        assert isinstance(request, GenerationRequest), "an encoder generates nothing"
        prompt, place = self._places[request.request_id]
        if prompt not in self._searches:
            self._searches[prompt] = asyncio.create_task(self._search(request))
        search = self._searches[prompt]
        self._waiting[prompt] += 1
        try:
            found = await asyncio.shield(search)
        finally:
            self._waiting[prompt] -= 1
            if self._waiting[prompt] == 0:
                search.cancel()
        beam = found.beams[place]
        yield OutputEvent(
            request.request_id,
            text=text_of(self._pieces, beam.shown),
            tokens=beam.tokens,
            finish_reason="stop" if beam.is_ended else "length",
            usage=Usage(len(request.prompt), len(beam.tokens), found.cached_tokens),
        )

    async def _search(self, request: GenerationRequest) -> "_Found":
        search = beam_search(
            self._ends,
            width=self._beams.width,
            max_tokens=request.sampling.max_tokens or self._context - len(request.prompt),
            length_penalty=self._beams.length_penalty,
        )
        cached_tokens = 0
        try:
            answers = next(search)
            while True:
                told = await self._ask(request, answers)
                if not answers[0]:
                    cached_tokens = told[0].usage.cached_tokens if told[0].usage else 0
                answers = search.send([event.logprobs[0].top for event in told])
        except StopIteration as end:
            return _Found(end.value, cached_tokens)

    async def _ask(
        self, request: GenerationRequest, answers: Sequence[tuple[int, ...]]
    ) -> list[OutputEvent]:
        """The next token of each answer, with its alternatives."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._ask_one(request, answer, number))
                    for number, answer in enumerate(answers)
                ]
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _ask_one(
        self, request: GenerationRequest, answer: tuple[int, ...], number: int
    ) -> OutputEvent:
        step = replace(
            request,
            request_id=f"{request.request_id}.{len(answer)}.{number}",
            prompt=[*request.prompt, *answer],
            sampling=alternatives_of(self._beams.width),
        )
        while True:
            try:
                return await self._first_event(step)
            except CapacityError:
                # The queue that let the search in holds requests, and a search is a new one at
                # every step: it waits for its place like those that came after it.
                if not answer:
                    raise
                await asyncio.sleep(_RETRY_SECONDS)

    async def _first_event(self, step: GenerationRequest) -> OutputEvent:
        async with aclosing(self._engine.generate(step)) as events:
            async for event in events:
                if event.logprobs:
                    return event
                if event.parameter is not None:
                    raise RequestError(event.error or "", parameter=event.parameter)
                if event.finish_reason is not None:
                    raise EngineError(event.error or "The engine gave this request up.")
        raise EngineError("The engine ended this request without a last event.")


@dataclass(frozen=True, slots=True)
class _Found:
    beams: Sequence[Beam]
    cached_tokens: int
