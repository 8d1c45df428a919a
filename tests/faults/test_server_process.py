"""Processes that are killed, drained, or find their port taken."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import httpx
import openai
import psutil
import pytest

from tests.faults.conftest import Promise
from tests.server.fake_model import ANSWER
from tests.server.live import ROOT, LiveServer, server_process, wait_until

pytestmark = pytest.mark.faults

BODY = {"model": "reciter", "messages": [{"role": "user", "content": "Go on"}]}


@pytest.fixture
def server() -> Iterator[LiveServer]:
    with server_process(delay_seconds=0.01, length=10_000) as live:
        yield live


def _worker_pid(server: LiveServer) -> int:
    line = next(line for line in server.lines if "worker=" in line)
    return int(line.partition("worker=")[2])


class Stream:
    """A streaming client in a thread; keeps every data line."""

    def __init__(self, server: LiveServer, max_tokens: int) -> None:
        self.lines: list[str] = []
        self.error: Exception | None = None
        self._url = server.url + "/v1/chat/completions"
        self._body = BODY | {"stream": True, "max_tokens": max_tokens}
        self.thread = threading.Thread(target=self._read)
        self.thread.start()

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=self._body, timeout=30) as answer:
                assert answer.status_code == 200, answer.read()
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        self.lines.append(line.removeprefix("data: "))
        except Exception as error:
            self.error = error


def _start_streams(server: LiveServer, count: int, max_tokens: int = 1500) -> list[Stream]:
    streams = [Stream(server, max_tokens) for _ in range(count)]
    wait_until(lambda: all(len(s.lines) > 3 or s.error for s in streams), 15, "streams run")
    assert all(stream.error is None for stream in streams)
    return streams


def _health(server: LiveServer) -> int:
    return server.request("GET", "/health")[0]


def test_killed_worker_is_told_to_every_stream_and_comes_back(
    server: LiveServer, promise: Promise
) -> None:
    streams = _start_streams(server, 8)
    os.kill(_worker_pid(server), signal.SIGKILL)
    killed = time.monotonic()
    statuses = set()
    for stream in streams:
        stream.thread.join(5)
        assert not stream.thread.is_alive()
        statuses.add(_health(server))
    told = time.monotonic() - killed
    assert told < 2 + 1
    for stream in streams:
        assert stream.error is None
        last = json.loads(stream.lines[-1])
        assert set(last) == {"error"}
        assert set(last["error"]) == {"message", "type", "param", "code"}
        assert last["error"]["type"] == "server_error"
        assert last["error"]["code"] == "worker_lost"
        assert all("error" not in json.loads(line) for line in stream.lines[:-1])
    assert 503 in statuses or _health(server) in (200, 503)
    wait_until(lambda: _health(server) == 200, 10, "serving again")
    assert time.monotonic() - killed < 10
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as client:
        answer = client.chat.completions.create(**BODY, max_tokens=9)
    assert answer.choices[0].message.content == ANSWER.encode()[:9].decode()
    promise(
        f"worker killed under 8 streams: each told within {told:.1f} s, serving again within 10 s, "
        "and the next answer is the right one"
    )


def test_health_is_503_while_the_worker_restarts(server: LiveServer) -> None:
    os.kill(_worker_pid(server), signal.SIGKILL)
    seen = set()

    def is_back() -> bool:
        status, headers, content = server.request("GET", "/health")
        seen.add(status)
        if status == 503:
            assert headers["retry-after"] == "1"
            assert json.loads(content)["error"]["code"] in ("model_restarting", "model_starting")
        return 503 in seen and status == 200

    wait_until(is_back, 10, "503, then 200")
    assert seen == {200, 503} or seen == {503, 200}


def test_killed_server_leaves_no_orphan_and_restarts_at_once(
    server: LiveServer, promise: Promise
) -> None:
    assert server.process is not None
    family = psutil.Process(server.process.pid).children(recursive=True)
    assert family
    streams = _start_streams(server, 4)
    server.process.kill()
    server.process.wait(5)
    for stream in streams:
        stream.thread.join(5)
        assert stream.error is not None
    wait_until(lambda: not any(_is_alive(child) for child in family), 2, "no orphans")
    start = time.monotonic()
    with server_process(port=server.port) as again:
        assert again.port == server.port
        assert again.json("/v1/chat/completions", BODY)[0] == 200
    assert time.monotonic() - start < 15
    promise("server killed under 4 streams: no process is left, and it starts again on its port")


def _is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def test_sigterm_lets_streams_finish_and_refuses_new_work(
    server: LiveServer, promise: Promise
) -> None:
    assert server.process is not None
    streams = _start_streams(server, 8, max_tokens=150)
    kept = server.connect()
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _health(server) == 503, 2, "health tells")
    status, answer = server.json("/v1/chat/completions", BODY)
    assert (status, answer["error"]["code"]) == (503, "shutting_down")
    _, headers, _ = server.request("POST", "/v1/chat/completions", b"{}")
    assert int(headers["retry-after"]) > 0
    for stream in streams:
        stream.thread.join(20)
        assert stream.error is None
        assert stream.lines[-1] == "[DONE]"
        assert json.loads(stream.lines[-2])["choices"][0]["finish_reason"] == "length"
    assert server.process.wait(5) == 0
    kept.close()
    promise("SIGTERM under 8 streams: each ends whole, new work is told 503 and when to come back")


def test_second_signal_ends_streams_with_an_error_at_once(
    server: LiveServer, promise: Promise
) -> None:
    assert server.process is not None
    children = psutil.Process(server.process.pid).children(recursive=True)
    streams = _start_streams(server, 4)
    server.process.send_signal(signal.SIGTERM)
    wait_until(lambda: _health(server) == 503, 2, "draining")
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(8) == 1
    assert time.monotonic() - start < 5
    for stream in streams:
        stream.thread.join(5)
        assert stream.error is None
        assert json.loads(stream.lines[-1])["error"]["code"] == "shutting_down"
    wait_until(lambda: not any(_is_alive(child) for child in children), 2, "no orphans")
    promise("a second SIGTERM under 4 streams: each is told, and all processes end within 5 s")


def test_taken_port_says_so_and_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        start = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "yearling.cli.main", "serve", "--port", str(port)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert f"error: port {port} is taken" in ended.stderr
    assert f"--port {port + 1}" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert time.monotonic() - start < 5
