"""A model in a child process: it may die at any moment, and nobody is left waiting."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from driving import Answer, make_request, true_answer
from fake_embedder import vector_of

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    EngineError,
    ModelFormatError,
    RequestError,
    UnsupportedError,
    WorkerLostError,
)
from yearling.serving.request import EmbeddingRequest, EngineRequest
from yearling.serving.worker import ModelWorker, RestartPolicy

pytestmark = pytest.mark.faults

QUICK = RestartPolicy(first_pause_seconds=0.01, longest_pause_seconds=0.02)


def new_worker(
    entry: str = "build", policy: RestartPolicy = QUICK, **arguments: Any
) -> ModelWorker:
    return ModelWorker("fake", arguments, entry=f"fake_worker:{entry}", policy=policy)


@asynccontextmanager
async def running(**arguments: Any) -> AsyncIterator[ModelWorker]:
    worker = new_worker(**arguments)
    await worker.start()
    try:
        yield worker
    finally:
        await worker.stop()


async def collect(worker: ModelWorker, request: EngineRequest) -> Answer:
    return Answer([event async for event in worker.generate(request)])


async def until(condition: Any, seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def kill(worker: ModelWorker) -> None:
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def test_answers_are_those_of_an_engine_in_this_process() -> None:
    async with running() as worker:
        prompts = [[index] * (index * 9 + 1) for index in range(12)]
        found = await asyncio.gather(*(collect(worker, make_request(p)) for p in prompts))
        assert [answer.tokens for answer in found] == [true_answer(p, 16) for p in prompts]
        assert {answer.final.finish_reason for answer in found} == {"length"}
        assert worker.stats().num_free_blocks == worker.stats().num_blocks == 512


async def test_encoder_answers_from_its_process_and_refuses_to_generate() -> None:
    worker = new_worker("build_encoder")
    await worker.start()
    try:
        requests = [EmbeddingRequest(str(n), [[n, 2], [n] * 20]) for n in range(12)]
        found = await asyncio.gather(*(collect(worker, request) for request in requests))
        for request, answer in zip(requests, found, strict=True):
            vectors = np.frombuffer(answer.final.vectors, "<f4").reshape(2, -1).tolist()
            assert vectors == [vector_of(tokens) for tokens in request.inputs]
        with pytest.raises(UnsupportedError, match="this model is an encoder"):
            await collect(worker, make_request([1]))
    finally:
        await worker.stop()


async def test_generating_model_refuses_embeddings() -> None:
    async with running() as worker:
        with pytest.raises(UnsupportedError, match="generates text and gives no vectors"):
            await collect(worker, EmbeddingRequest("e", [[1]]))


async def test_refusals_are_typed_whoever_finds_them() -> None:
    async with running(config={"max_sequences": 1, "max_waiting": 0}) as worker:
        with pytest.raises(ContextLengthError, match="the prompt has 5000 tokens"):
            await collect(worker, make_request([1] * 5000))
        events = worker.generate(make_request([1], max_tokens=4000))
        await anext(events)
        with pytest.raises(CapacityError, match="1 requests are running or waiting"):
            await collect(worker, make_request([1]))
        await events.aclose()
        await until(lambda: worker.stats().num_running == 0)
        assert worker.stats().num_free_blocks == 512
        worker._limits = None or worker._limits.__class__(10**6, None)  # type: ignore[union-attr]
        with pytest.raises(RequestError, match="prompt holds token id 999"):
            await collect(worker, make_request([999]))


async def test_kill_under_eight_streams_tells_all_and_serves_again() -> None:
    async with running(delay_seconds=0.005) as worker:
        golden = (await collect(worker, make_request([1, 2]))).tokens
        streams = [
            asyncio.create_task(collect(worker, make_request([index], max_tokens=4000)))
            for index in range(8)
        ]
        await until(lambda: worker.stats().num_running == 8)
        first_pid, killed = worker.pid, time.monotonic()
        kill(worker)
        ends = await asyncio.gather(*streams, return_exceptions=True)
        assert time.monotonic() - killed < 2.0
        assert not worker.is_ready
        for end in ends:
            assert isinstance(end, WorkerLostError)
            assert "ended while serving" in str(end)
        with pytest.raises(WorkerLostError, match="restarting"):
            await collect(worker, make_request([1]))
        await until(lambda: worker.is_ready)
        assert time.monotonic() - killed < 10.0
        assert worker.pid != first_pid
        assert worker.num_restarts == 1
        assert (await collect(worker, make_request([1, 2]))).tokens == golden


async def test_engine_that_breaks_is_replaced() -> None:
    async with running(fail_on_call=5) as worker:
        answer = await collect(worker, make_request([1]))
        assert answer.final.error == "the engine failed: RuntimeError: injected failure"
        await until(lambda: worker.num_restarts == 1 and worker.is_ready)
        assert (await collect(worker, make_request([1], max_tokens=3))).tokens == true_answer(
            [1], 3
        )


async def test_crash_loop_ends_with_a_reason() -> None:
    worker = new_worker(policy=QUICK.model_copy(update={"max_crashes": 1}))
    await worker.start()
    for _ in range(2):
        await until(lambda: worker.is_ready)
        kill(worker)
        await until(lambda: not worker.is_ready)
    await until(lambda: worker.state == "failed")
    message = (
        r"crashed 2 times within 60 s and is not started again; the last one was killed by SIGKILL"
    )
    with pytest.raises(EngineError, match=message):
        await collect(worker, make_request([1]))
    await worker.start()  # asking again is a new chance
    assert (await collect(worker, make_request([1]))).tokens == true_answer([1], 16)
    await worker.stop()


async def test_start_reports_a_bad_model_with_its_own_error() -> None:
    worker = new_worker("refuse", path="broken.gguf")
    with pytest.raises(ModelFormatError, match=r"broken\.gguf: the file is damaged"):
        await worker.start()
    assert (worker.state, worker.pid) == ("failed", None)


async def test_start_reports_a_crash_while_loading() -> None:
    with pytest.raises(WorkerLostError, match="exited with 3 while loading the model"):
        await new_worker("crash").start()


async def test_stop_drains_until_its_deadline() -> None:
    worker = new_worker(delay_seconds=0.01)
    await worker.start()
    pid = worker.pid
    short = asyncio.create_task(collect(worker, make_request([1], max_tokens=20)))
    long = asyncio.create_task(collect(worker, make_request([2], max_tokens=4000)))
    await until(lambda: worker.stats().num_running == 2)
    started = time.monotonic()
    await worker.stop(drain_seconds=1.0)
    assert 0.9 < time.monotonic() - started < 3.0
    assert (await short).final.finish_reason == "length"
    assert (await long).final.finish_reason == "cancelled"
    assert pid is not None
    assert not is_alive(pid)
    with pytest.raises(EngineError, match="stopped"):
        await collect(worker, make_request([1]))


async def test_stop_while_restarting_leaves_no_process() -> None:
    worker = new_worker(policy=RestartPolicy(first_pause_seconds=30))
    await worker.start()
    kill(worker)
    await until(lambda: worker.state == "restarting")
    await asyncio.wait_for(worker.stop(), 3.0)
    assert (worker.state, worker.pid) == ("stopped", None)


async def test_terminal_signals_are_left_to_the_parent() -> None:
    async with running(delay_seconds=0.005) as worker:
        stream = asyncio.create_task(collect(worker, make_request([1], max_tokens=50)))
        await until(lambda: worker.stats().num_running == 1)
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGINT)
        os.kill(worker.pid, signal.SIGTERM)
        assert (await stream).tokens == true_answer([1], 50)


_SERVER = """
import asyncio, sys
from driving import make_request
from yearling.serving.worker import ModelWorker

async def main():
    worker = ModelWorker("fake", {"delay_seconds": 30.0}, entry="fake_worker:build")
    await worker.start()
    answer = asyncio.create_task(anext(worker.generate(make_request([1]))))
    await asyncio.sleep(0.3)
    print(worker.pid, flush=True)  # it is in the middle of a long step
    await answer

asyncio.run(main())
"""


def test_no_worker_outlives_a_killed_server() -> None:
    search_path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", _SERVER],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": search_path},
        text=True,
    ) as server:
        assert server.stdout is not None
        worker = int(server.stdout.readline())
        assert is_alive(worker)
        server.kill()
        server.wait()
        deadline = time.monotonic() + 2.0
        while is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not is_alive(worker)
