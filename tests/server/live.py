"""A server on a loopback port: in a thread of the test, or as a process that may be killed."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.server.fake_model import served_model
from yearling.server.app import build_app
from yearling.server.config import ServerConfig
from yearling.server.listener import bind, url_of
from yearling.server.models import ServedModel
from yearling.server.runner import DrainingServer, _uvicorn_config
from yearling.server.service import Service

ROOT = Path(__file__).parents[2]


@dataclass
class LiveServer:
    """A running server; `service` only when it runs in this process."""

    url: str
    service: Service | None = None
    process: "subprocess.Popen[str] | None" = None
    lines: list[str] = field(default_factory=list)

    @property
    def port(self) -> int:
        port = urlsplit(self.url).port
        assert port is not None
        return port

    def connect(self, timeout: float = 10.0) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout)

    def raw(self, data: bytes, timeout: float = 10.0) -> bytes:
        """Send bytes, and read until the server closes the connection."""
        with self.connect(timeout) as connection:
            connection.sendall(data)
            answer = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := connection.recv(65536):
                    answer += piece
            return answer

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        host: str | None = "127.0.0.1",
    ) -> tuple[int, dict[str, str], bytes]:
        """One request on a connection of its own, with exactly these headers."""
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
        if host is not None:
            lines.append(f"Host: {host}")
        given = dict(headers or {})
        if body is not None:
            given.setdefault("Content-Type", "application/json")
            given["Content-Length"] = str(len(body))
        lines += [f"{name}: {value}" for name, value in given.items()]
        answer = self.raw("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b""))
        return parse_answer(answer)

    def json(self, path: str, body: Any) -> tuple[int, Any]:
        status, _, content = self.request("POST", path, json.dumps(body).encode())
        return status, json.loads(content)

    def metric(self, name: str) -> float:
        """The value of a metric with one label set."""
        _, _, content = self.request("GET", "/metrics")
        lines = content.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name + "{"))


def parse_answer(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body (chunks joined)."""
    assert answer, "the connection closed without an answer"
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body = _join_chunks(body)
    return int(first.split(" ")[1]), headers, body


def _join_chunks(data: bytes) -> bytes:
    joined = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        joined += data[: int(size, 16)]
        data = data[int(size, 16) + 2 :]
    return joined


def wait_until(condition: Any, seconds: float, what: str) -> float:
    """Wait for something to become true, and give back how long it took."""
    start = time.monotonic()
    while not condition():
        waited = time.monotonic() - start
        assert waited < seconds, f"{what}: not within {seconds} s"
        time.sleep(0.02)
    return time.monotonic() - start


@contextlib.contextmanager
def running_server(
    config: ServerConfig | None = None,
    models: list[ServedModel] | None = None,
    *,
    send_buffer_bytes: int | None = None,
    **executor: Any,
) -> Iterator[LiveServer]:
    """Serve fake models from a thread."""
    config = config or ServerConfig(port=0)
    models = models or [served_model(limits=config.limits, **executor)]
    app = build_app(models, config)
    listener = bind(config)
    if send_buffer_bytes is not None:  # connections inherit it
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listening = threading.Event()
    server = DrainingServer(_uvicorn_config(app, config), app.state.service, listening.set)

    async def serve() -> None:
        for model in models:
            await model.engine.start()
        try:
            await server.serve(sockets=[listener])
        finally:
            for model in models:
                await model.engine.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert listening.wait(10)
        yield LiveServer(url_of(listener), service=app.state.service)
    finally:
        server.handle_exit(signal.SIGTERM, None)
        server.handle_exit(signal.SIGTERM, None)
        thread.join(20)
        assert not thread.is_alive()


@contextlib.contextmanager
def server_process(*arguments: str, port: int = 0, **executor: Any) -> Iterator[LiveServer]:
    """Run the fake model behind a real worker in a process of its own."""
    command = [sys.executable, "-m", "tests.faults.fake_server", str(port), json.dumps(executor)]
    with started(command + list(arguments)) as server:
        yield server


@contextlib.contextmanager
def started(command: list[str], seconds: float = 30.0) -> Iterator[LiveServer]:
    """Start a server command, and wait for the line that tells its address."""
    search_path = os.pathsep.join([str(ROOT / "src"), str(ROOT)])
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": search_path, "PYTHONUNBUFFERED": "1"},
    )
    server = LiveServer("", process=process)
    reader = threading.Thread(target=_read_lines, args=(process, server.lines))
    reader.start()
    try:
        deadline = time.monotonic() + seconds
        while not server.url:
            assert process.poll() is None, "\n".join(server.lines)
            assert time.monotonic() < deadline, "\n".join(server.lines)
            found = [line for line in server.lines if "http://" in line]
            server.url = found[0].split("http://")[1].split()[0] if found else ""
            time.sleep(0.01)
        server.url = "http://" + server.url
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        reader.join(10)
        assert process.stdout is not None
        process.stdout.close()


def _read_lines(process: "subprocess.Popen[str]", lines: list[str]) -> None:
    assert process.stdout is not None
    lines.extend(line.rstrip("\n") for line in process.stdout)
