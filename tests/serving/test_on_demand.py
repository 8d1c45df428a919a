"""Models on demand: there when asked for, ended when idle and in the way, never when busy."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from driving import make_request, true_answer
from test_worker import collect, kill, new_worker, until

from yearling.core.errors import CapacityError, ModelFormatError, WorkerLostError
from yearling.serving.on_demand import ModelMemory, OnDemandEngine
from yearling.serving.worker import RestartPolicy

MIB = 1 << 20
PROMPT = range(20)


def engine(memory: ModelMemory, *, weight_mib: int = 0, **arguments: Any) -> OnDemandEngine:
    worker = new_worker(policy=RestartPolicy(max_crashes=0), **arguments)
    return OnDemandEngine(worker, weight_mib * MIB, memory)


async def _size_of_one() -> int:
    """Resident MiB of a worker over the fake model."""
    memory = ModelMemory(1 << 40)
    one = engine(memory)
    await collect(one, make_request(PROMPT))  # type: ignore[arg-type]
    from yearling.serving.on_demand import _resident_bytes

    size = _resident_bytes(one.worker.pid) // MIB
    await one.stop()
    return size


def run(test: Any) -> None:
    asyncio.run(test())


def test_model_is_loaded_for_its_first_request() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40))
        await one.start()
        assert one.is_ready
        assert one.worker.pid is None
        answer = await collect(one, make_request(PROMPT))  # type: ignore[arg-type]
        assert answer.tokens == true_answer(PROMPT, 16)
        assert one.worker.is_ready
        assert one.stats().generated_tokens == 16
        await one.stop()
        assert one.worker.pid is None

    run(test)


def test_idle_model_makes_room_and_comes_back() -> None:
    async def test() -> None:
        size = await _size_of_one()
        memory = ModelMemory(size * 5 // 2 * MIB)  # room for two
        engines = [engine(memory, weight_mib=size) for _ in range(3)]
        for number in (0, 1, 0, 2):  # 1 has been idle longer than 0
            await collect(engines[number], make_request(PROMPT))  # type: ignore[arg-type]
        assert [one.worker.is_ready for one in engines] == [True, False, True]
        answer = await collect(engines[1], make_request(PROMPT))  # type: ignore[arg-type]
        assert answer.tokens == true_answer(PROMPT, 16)
        assert [one.worker.is_ready for one in engines] == [False, True, True]
        for one in engines:
            await one.stop()

    run(test)


def test_busy_model_is_left_alone_and_the_other_refused_for_now() -> None:
    async def test() -> None:
        size = await _size_of_one()
        memory = ModelMemory(size * 3 // 2 * MIB)
        busy = engine(memory, weight_mib=size, delay_seconds=0.05)
        other = engine(memory, weight_mib=size)
        running = asyncio.create_task(
            collect(busy, make_request(PROMPT, max_tokens=40))  # type: ignore[arg-type]
        )
        await until(lambda: busy.worker.is_ready)
        with pytest.raises(CapacityError, match=r"which fake leave no room for .* Try again"):
            await collect(other, make_request(PROMPT))  # type: ignore[arg-type]
        assert (await running).tokens == true_answer(PROMPT, 40)
        assert (await collect(other, make_request(PROMPT))).tokens  # type: ignore[arg-type]
        assert not busy.worker.is_ready
        await other.stop()

    run(test)


def test_model_larger_than_the_budget_says_so() -> None:
    async def test() -> None:
        one = engine(ModelMemory(100 * MIB), weight_mib=200)
        complaint = r"takes 200 MiB at least, .* may take 100: .*large"
        with pytest.raises(CapacityError, match=complaint):
            await one.start()
        with pytest.raises(CapacityError, match=complaint):
            await collect(one, make_request(PROMPT))  # type: ignore[arg-type]

    run(test)


def test_client_that_leaves_while_another_model_is_ended_leaves_nothing_half_way() -> None:
    async def test() -> None:
        size = await _size_of_one()
        memory = ModelMemory(size * 3 // 2 * MIB)
        first, second = (engine(memory, weight_mib=size) for _ in range(2))
        await collect(first, make_request(PROMPT))  # type: ignore[arg-type]
        leaving = asyncio.create_task(collect(second, make_request(PROMPT)))  # type: ignore[arg-type]
        await until(lambda: first.worker.state == "stopping")
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert second.num_users == 0
        for one in (first, second, first):
            answer = await collect(one, make_request(PROMPT))  # type: ignore[arg-type]
            assert answer.tokens == true_answer(PROMPT, 16)
        for one in (first, second):
            await one.stop()

    run(test)


def test_loading_one_model_does_not_hold_up_another() -> None:
    async def test() -> None:
        memory = ModelMemory(1 << 40)
        loaded, slow = engine(memory), engine(memory)
        await collect(loaded, make_request(PROMPT))  # type: ignore[arg-type]
        waiting = asyncio.create_task(collect(slow, make_request(PROMPT)))  # type: ignore[arg-type]
        await until(lambda: slow.worker.state == "starting")
        await collect(loaded, make_request(PROMPT))  # type: ignore[arg-type]
        assert slow.worker.state == "starting"
        await waiting
        for one in (loaded, slow):
            await one.stop()

    run(test)


def test_adapter_is_forgotten_without_loading_the_model() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40))
        one.worker.adapters["a"] = Path("somewhere")
        await one.unload_adapter("a")
        assert not one.worker.adapters
        assert one.worker.pid is None

    run(test)


def test_many_first_requests_load_once() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40))
        requests = [make_request([number, 1, 2]) for number in range(6)]
        answers = await asyncio.gather(*(collect(one, r) for r in requests))  # type: ignore[arg-type]
        assert [a.tokens for a in answers] == [true_answer([n, 1, 2], 16) for n in range(6)]
        assert one.worker.num_restarts == 0
        await one.stop()

    run(test)


def test_damaged_model_is_an_error_of_its_own_type_each_time() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40), entry="refuse", path="x.gguf")
        for _ in range(2):
            with pytest.raises(ModelFormatError, match="damaged"):
                await collect(one, make_request(PROMPT))  # type: ignore[arg-type]

    run(test)


def test_reader_that_leaves_frees_its_model() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40), delay_seconds=0.05)
        events = one.generate(make_request(PROMPT, max_tokens=500))
        await anext(events)
        assert one.num_users == 1
        await events.aclose()
        assert one.num_users == 0
        await one.stop()

    run(test)


def test_crash_is_told_and_the_model_serves_again() -> None:
    async def test() -> None:
        one = engine(ModelMemory(1 << 40), delay_seconds=0.05)
        events = one.generate(make_request(PROMPT, max_tokens=500))
        await anext(events)
        kill(one.worker)
        with pytest.raises(WorkerLostError, match="ended while serving"):
            [event async for event in events]
        await until(lambda: one.worker.state == "failed")  # nothing is loaded for nobody
        assert (await collect(one, make_request(PROMPT))).tokens  # type: ignore[arg-type]
        await one.stop()

    run(test)
