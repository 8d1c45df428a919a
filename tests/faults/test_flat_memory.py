"""Memory, files and threads stay flat under the same mixed requests again and again."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.faults.conftest import Promise
from tests.server.live import LiveServer, started

pytestmark = pytest.mark.faults

_MEBIBYTE = 1 << 20
_MODEL = "SmolLM2-135M-Instruct.Q4_1"
_SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def _requests() -> list[tuple[str, dict[str, Any]]]:
    said = [{"role": "user", "content": "Name a colour."}]
    short = {"model": _MODEL, "max_tokens": 4, "temperature": 0}
    chat = {**short, "messages": said}
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}
    return [
        ("/v1/chat/completions", chat),
        ("/v1/chat/completions", {**chat, "stream": True}),
        ("/v1/chat/completions", {**chat, "logprobs": True, "top_logprobs": 5}),
        ("/v1/chat/completions", {**chat, "response_format": schema}),
        ("/v1/completions", {**short, "prompt": ["One", "Two"], "echo": True, "logprobs": 1}),
        ("/v1/messages", {**chat, "max_tokens": 3}),
        ("/v1/responses", {"model": _MODEL, "input": "Hi", "max_output_tokens": 3}),
        ("/v1/chat/completions", {**chat, "mood": 1}),
        ("/tokenize", {"model": _MODEL, "prompt": "Hello"}),
        ("/v1/nothing", {}),
    ]


def _ask_all(server: LiveServer, times: int) -> None:
    for number in range(times):
        path, body = _requests()[number % len(_requests())]
        status, _, _ = server.request("POST", path, json.dumps(body).encode())
        assert status == {"/v1/nothing": 404}.get(path, 400 if "mood" in body else 200), path


def _state(server: LiveServer) -> tuple[int, int, int]:
    """Resident bytes, open files and threads of the server and its processes."""
    assert server.process is not None
    parent = psutil.Process(server.process.pid)
    family = [parent, *parent.children(recursive=True)]
    total = [0, 0, 0]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            total[0] += process.memory_info().rss
            total[1] += process.num_fds()
            total[2] += process.num_threads()
    return total[0], total[1], total[2]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("block", [60, pytest.param(400, marks=pytest.mark.slow)])
def test_memory_files_and_threads_stay_flat(
    block: int, smollm2_path: Path, promise: Promise
) -> None:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    with started([*command, "--model", str(smollm2_path)], seconds=60) as server:
        _ask_all(server, 2 * len(_requests()))
        _ask_all(server, block)
        first = _state(server)
        _ask_all(server, 2 * block)
        last = _state(server)
        if last[1:] != first[1:]:  # a connection may still be closing
            time.sleep(2)
            last = _state(server)
    growth = (last[0] - first[0]) / _MEBIBYTE
    assert growth < 10
    assert last[1] <= first[1], "open files"
    assert last[2] <= first[2] + 1, "threads: a pool may start one more"
    promise(
        f"3 x {block} mixed requests: {growth:+.1f} MiB from the first block to the last, "
        f"{last[1]} files and {last[2]} threads open after both"
    )
