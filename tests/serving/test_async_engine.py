"""The engine in a thread: streams, cancellation, failure, drain."""

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from driving import Answer, make_engine, make_request, true_answer
from fake_executor import FakeExecutor

from yearling.core.errors import CapacityError, ContextLengthError, EngineError, RequestError
from yearling.serving.async_engine import AsyncEngine, LocalEngine
from yearling.serving.request import GenerationRequest


@asynccontextmanager
async def running(
    executor: FakeExecutor | None = None, **config: Any
) -> AsyncIterator[LocalEngine]:
    engine = LocalEngine(make_engine(executor, **config))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


async def collect(engine: AsyncEngine, request: GenerationRequest) -> Answer:
    return Answer([event async for event in engine.generate(request)])


async def until_idle(engine: AsyncEngine, seconds: float = 1.0) -> None:
    async with asyncio.timeout(seconds):
        while engine.stats().num_running or engine.stats().num_waiting:
            await asyncio.sleep(0.005)


async def test_many_streams_get_their_own_answers() -> None:
    async with running() as engine:
        prompts = [[index, index + 1] for index in range(30)]
        found = await asyncio.gather(
            *(collect(engine, make_request(prompt, max_tokens=30)) for prompt in prompts)
        )
    assert [answer.tokens for answer in found] == [true_answer(p, 30) for p in prompts]
    assert {answer.final.finish_reason for answer in found} == {"length"}


async def test_closing_the_iterator_cancels() -> None:
    async with running(FakeExecutor(delay_seconds=0.002)) as engine:
        events = engine.generate(make_request([1], max_tokens=4000))
        await anext(events)
        await events.aclose()
        await until_idle(engine)
        assert engine.stats().num_free_blocks == 512
        assert engine.stats().generated_tokens < 100


async def test_clients_that_leave_at_any_moment_leave_nothing_behind() -> None:
    dice = random.Random(3)

    async def leave(engine: LocalEngine) -> None:
        request = make_request([dice.randrange(256)] * dice.randrange(1, 80), max_tokens=900)
        try:
            async with asyncio.timeout(dice.random() * 0.3):
                await collect(engine, request)
        except TimeoutError:
            pass

    async with running(FakeExecutor(64, delay_seconds=0.001)) as engine:
        await asyncio.gather(*(leave(engine) for _ in range(200)))
        await until_idle(engine)
        assert engine.stats().num_free_blocks == 64
        assert (await collect(engine, make_request([5]))).tokens == true_answer([5], 16)


async def test_refusals_are_raised_and_typed() -> None:
    async with running(max_sequences=1, max_waiting=1) as engine:
        with pytest.raises(ContextLengthError, match="the prompt has 9000 tokens"):
            await collect(engine, make_request([1] * 9000))
        long = make_request([1], max_tokens=4000)
        first = engine.generate(long)
        await anext(first)
        with pytest.raises(RequestError, match="already running"):
            await collect(engine, long)
        second = asyncio.create_task(collect(engine, make_request([2])))
        await asyncio.sleep(0)
        with pytest.raises(CapacityError, match="2 requests are running or waiting"):
            await collect(engine, make_request([3]))
        await first.aclose()
        assert (await second).tokens == true_answer([2], 16)


async def test_refusal_by_the_engine_itself_reaches_the_caller() -> None:
    async with running() as engine:
        engine._engine._tokenizer = None  # only the engine knows that stop strings need one
        with pytest.raises(RequestError, match="stop strings need a tokenizer"):
            await collect(engine, make_request([1], stop="x"))
        assert (await collect(engine, make_request([5]))).tokens == true_answer([5], 16)


async def test_slow_reader_holds_up_nobody() -> None:
    async with running() as engine:
        slow = engine.generate(make_request([1], max_tokens=500))
        await anext(slow)
        fast = await collect(engine, make_request([2], max_tokens=500))
        assert fast.tokens == true_answer([2], 500)
        rest = [event async for event in slow]
        assert len(rest) == 499


async def test_broken_engine_tells_everyone_and_refuses_newcomers() -> None:
    async with running(FakeExecutor(fail_on_call=5)) as engine:
        found = await asyncio.gather(
            *(collect(engine, make_request([i], max_tokens=50)) for i in range(4))
        )
        assert {answer.final.finish_reason for answer in found} == {"error"}
        assert (engine.state, engine.is_ready) == ("failed", False)
        with pytest.raises(EngineError, match="injected failure"):
            await collect(engine, make_request([1]))


async def test_stop_drains_then_cancels() -> None:
    engine = LocalEngine(make_engine(FakeExecutor(delay_seconds=0.002)))
    await engine.start()
    short = asyncio.create_task(collect(engine, make_request([1], max_tokens=20)))
    long = asyncio.create_task(collect(engine, make_request([2], max_tokens=4000)))
    await asyncio.sleep(0.01)
    started = time.monotonic()
    stopping = asyncio.create_task(engine.stop(drain_seconds=0.3))
    await asyncio.sleep(0.01)
    with pytest.raises(EngineError, match="stopping"):
        await collect(engine, make_request([3]))
    await stopping
    assert 0.25 < time.monotonic() - started < 1.5
    assert (await short).tokens == true_answer([1], 20)
    assert (await long).final.finish_reason == "cancelled"
    assert engine.stats().num_free_blocks == 512


async def test_stop_without_work_does_not_wait() -> None:
    engine = LocalEngine(make_engine())
    await engine.start()
    started = time.monotonic()
    await engine.stop(drain_seconds=5.0)
    assert time.monotonic() - started < 1.0
    assert engine.state == "stopped"
