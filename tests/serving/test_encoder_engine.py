"""The encoder's engine: right vectors, shared steps, one event each, whatever happens."""

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from fake_embedder import WIDTH, FakeEmbedder, vector_of

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    EngineError,
    RequestError,
    UnsupportedError,
)
from yearling.serving.async_engine import LocalEngine
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.request import EmbeddingRequest, GenerationRequest, OutputEvent, Usage


def make_engine(executor: FakeEmbedder | None = None, **options: int) -> EncoderEngine:
    return EncoderEngine(executor or FakeEmbedder(), context=32, vocabulary=100, **options)


def drive(engine: EncoderEngine, *requests: EmbeddingRequest) -> dict[str, OutputEvent]:
    """Add all requests, step to the end, and return the one event of each."""
    for request in requests:
        engine.add(request)
    events = [event for _ in range(100) if engine.has_work for event in engine.step()]
    assert not engine.has_work
    assert len({event.request_id for event in events}) == len(events)
    return {event.request_id: event for event in events}


def rows(event: OutputEvent) -> list[list[float]]:
    return np.frombuffer(event.vectors, "<f4").reshape(-1, WIDTH).tolist()  # type: ignore[no-any-return]


def texts(*lengths: int) -> list[list[int]]:
    return [[1 + (start * 7 + i) % 90 for i in range(n)] for start, n in enumerate(lengths)]


def test_vectors_come_back_in_order_with_usage() -> None:
    inputs = texts(30, 2, 32, 7, 19, 1)
    event = drive(make_engine(), EmbeddingRequest("a", inputs))["a"]
    assert rows(event) == [vector_of(tokens) for tokens in inputs]
    assert (event.finish_reason, event.usage) == ("stop", Usage(91, 0))


def test_requests_share_steps_and_take_turns() -> None:
    executor = FakeEmbedder(max_step_tokens=40)
    long, short = texts(*[10] * 20), texts(9)
    events = drive(
        make_engine(executor), EmbeddingRequest("long", long), EmbeddingRequest("short", short)
    )
    assert short[0] in executor.steps[0], "one text does not wait behind twenty"
    assert len(executor.steps) < 8, "steps are filled"
    assert rows(events["long"]) == [vector_of(tokens) for tokens in long]
    assert rows(events["short"]) == [vector_of(tokens) for tokens in short]


@pytest.mark.parametrize(
    ("inputs", "error", "place"),
    [
        ([[1], [1] * 33], ContextLengthError, "input[1]"),
        ([[]], ContextLengthError, "input[0]"),
        ([[1], [1], [100]], RequestError, "input[2]"),
        ([[-1]], RequestError, "input[0]"),
    ],
)
def test_wrong_text_is_refused_with_its_place(
    inputs: Sequence[Sequence[int]], error: type[RequestError], place: str
) -> None:
    engine = make_engine()
    with pytest.raises(error) as caught:
        engine.add(EmbeddingRequest("a", inputs))
    assert caught.value.parameter == place
    assert not engine.has_work


def test_text_never_exceeds_a_step() -> None:
    engine = make_engine(FakeEmbedder(max_step_tokens=16))
    assert engine.limits.context == 16
    with pytest.raises(ContextLengthError, match="has 17 tokens, but a text may have 1 to 16"):
        engine.add(EmbeddingRequest("a", [[1] * 17]))


def test_generation_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="this model is an encoder"):
        make_engine().add(GenerationRequest("a", [1, 2]))


def test_too_many_requests_are_refused() -> None:
    engine = make_engine(max_requests=1)
    engine.add(EmbeddingRequest("a", [[1]]))
    with pytest.raises(CapacityError):
        engine.add(EmbeddingRequest("b", [[1]]))


def test_name_in_use_is_refused() -> None:
    engine = make_engine()
    engine.add(EmbeddingRequest("a", [[1]]))
    with pytest.raises(RequestError, match="'a' is already running"):
        engine.add(EmbeddingRequest("a", [[2]]))


def test_cancelled_request_ends_and_its_texts_are_not_computed() -> None:
    executor = FakeEmbedder()
    engine = make_engine(executor)
    engine.add(EmbeddingRequest("a", [[1]]))
    engine.cancel("a")
    engine.cancel("a")
    events = drive(engine, EmbeddingRequest("b", [[2]]))
    assert events["a"].finish_reason == "cancelled"
    assert events["b"].finish_reason == "stop"
    assert executor.steps == [[[2]]]


def test_broken_vector_ends_its_request_alone() -> None:
    engine = make_engine(FakeEmbedder(bad_token=66))
    events = drive(
        engine,
        EmbeddingRequest("bad", [[1], [66], [66], [2]]),
        EmbeddingRequest("good", [[3], [4]]),
    )
    assert events["bad"].finish_reason == "error"
    assert "not finite" in (events["bad"].error or "")
    assert events["bad"].vectors == b""
    assert rows(events["good"]) == [vector_of([3]), vector_of([4])]


def test_failing_executor_ends_every_request_and_the_engine() -> None:
    engine = make_engine(FakeEmbedder(max_step_tokens=32, fail_on_call=2))
    events = drive(
        engine, EmbeddingRequest("a", [[1] * 20, [2] * 20]), EmbeddingRequest("b", [[3] * 20])
    )
    assert {event.finish_reason for event in events.values()} == {"error"}
    with pytest.raises(EngineError, match="injected failure"):
        engine.add(EmbeddingRequest("c", [[1]]))


def test_statistics_count_tokens_and_steps() -> None:
    engine = make_engine(FakeEmbedder(max_step_tokens=32))
    engine.add(EmbeddingRequest("a", texts(20, 20)))
    assert (engine.stats().num_running, engine.stats().prompt_tokens) == (1, 40)
    drive(engine)
    assert (engine.stats().num_running, engine.stats().num_steps) == (0, 2)


async def _vectors(engine: LocalEngine, request: EmbeddingRequest) -> OutputEvent:
    (event,) = [event async for event in engine.generate(request)]
    return event


def test_asynchronous_engine_answers_many_clients() -> None:
    async def run() -> list[OutputEvent]:
        engine = LocalEngine(make_engine())
        await engine.start()
        try:
            requests = [EmbeddingRequest(str(n), texts(n, 3)) for n in range(1, 20)]
            return await asyncio.gather(*(_vectors(engine, request) for request in requests))
        finally:
            await engine.stop()

    for n, event in enumerate(asyncio.run(run()), 1):
        assert rows(event) == [vector_of(tokens) for tokens in texts(n, 3)]
