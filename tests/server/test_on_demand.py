"""Two real models in the memory of one: each is there when it is asked for."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.server.live import LiveServer, started, wait_until


@pytest.fixture
def live(smollm2_path: Path, minilm_path: Path) -> Iterator[LiveServer]:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0", "--on-demand"]
    command += ["--model", str(smollm2_path), "--model", str(minilm_path)]
    command += ["--served-model-name", "chat", "--served-model-name", "vectors"]
    with started([*command, "--model-memory", "200"], 60) as live:
        yield live


def workers(live: LiveServer) -> set[int]:
    assert live.process is not None
    children = psutil.Process(live.process.pid).children()
    return {child.pid for child in children if "worker_process" in " ".join(child.cmdline())}


def test_a_lost_worker_is_told_so_that_clients_ask_again(live: LiveServer) -> None:
    completion = {"model": "chat", "prompt": "Count: 1, 2,", "max_tokens": 4000, "ignore_eos": True}
    with ThreadPoolExecutor() as threads:
        body = json.dumps(completion).encode()
        answer = threads.submit(live.request, "POST", "/v1/completions", body)
        running = b'yearling_running_requests{model="chat"} 1.0'
        wait_until(lambda: running in live.request("GET", "/metrics")[2], 30, "an answer began")
        (worker,) = workers(live)
        os.kill(worker, signal.SIGKILL)
        status, headers, content = answer.result()
    assert (status, headers["retry-after"]) == (503, "2")
    assert json.loads(content)["error"]["code"] == "worker_lost"
    assert live.json("/v1/completions", completion | {"max_tokens": 2})[0] == 200


def test_two_models_take_turns_in_the_memory_of_one(live: LiveServer) -> None:
    completion = {"model": "chat", "prompt": "The capital of France is", "max_tokens": 2}
    completion["temperature"] = 0
    assert workers(live) == set()
    assert live.request("GET", "/health")[0] == 200
    status, answer = live.json("/v1/completions", completion)
    assert (status, answer["choices"][0]["text"]) == (200, " Paris.")
    first = workers(live)
    assert len(first) == 1
    assert live.json("/v1/completions", completion)[0] == 200
    assert workers(live) == first  # it stays loaded
    status, answer = live.json("/v1/embeddings", {"model": "vectors", "input": "Hello"})
    assert (status, len(answer["data"][0]["embedding"])) == (200, 384)
    second = workers(live)
    assert len(second) == 1
    assert not second & first
    assert live.json("/v1/completions", completion)[0] == 200
    assert not workers(live) & (first | second)
