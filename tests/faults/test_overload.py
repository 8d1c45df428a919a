"""Overload is refused early, and nothing is lost."""

import asyncio
import json
import statistics
import time
from dataclasses import dataclass, field
from typing import Any, Self

import httpx
import psutil
import pytest

from tests.faults.conftest import Promise
from tests.server.live import LiveServer, server_process

pytestmark = pytest.mark.faults

_MEBIBYTE = 1 << 20
_MAX_TOKENS = 8
_FIRST_TOKENS = 20
_BODY = {"model": "reciter", "prompt": "x", "max_tokens": _MAX_TOKENS}


@dataclass
class _Tally:
    ids: list[str] = field(default_factory=list)
    refusal_seconds: list[float] = field(default_factory=list)


class _Connection:
    """A connection that is kept, in as little code as there can be: the client must not be slow."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(
        self, request: str, fields: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        body = "" if fields is None else json.dumps(fields)
        head = f"{request} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        self._writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        answer = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in answer[1:] if line)
        content = await self._reader.readexactly(int(headers["content-length"]))
        return int(answer[0].split(" ")[1]), headers, json.loads(content)

    def close(self) -> None:
        self._writer.close()


async def _ask(connection: _Connection, tally: _Tally) -> None:
    start = time.monotonic()
    status, headers, body = await connection.ask("POST /v1/completions", _BODY)
    if status == 429:
        tally.refusal_seconds.append(time.monotonic() - start)
        assert int(headers["retry-after"]) >= 1
        assert body["error"]["code"] == "rate_limit_exceeded"
        return
    assert status == 200, body
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["usage"]["completion_tokens"] == _MAX_TOKENS
    tally.ids.append(body["id"])


async def _ask_all(port: int, count: int, num_connections: int) -> _Tally:
    tally = _Tally()
    left = iter(range(count))

    async def ask_on() -> None:
        connection = await _Connection.open(port)
        for _ in left:
            await _ask(connection, tally)
        connection.close()

    await asyncio.gather(*(ask_on() for _ in range(num_connections)))
    return tally


def _first_token_seconds(server: LiveServer) -> float:
    """Median time to the first token of a stream, one after the other."""
    times = []
    with httpx.Client(base_url=server.url) as client:
        for _ in range(_FIRST_TOKENS):
            start = time.monotonic()
            with client.stream("POST", "/v1/completions", json=_BODY | {"stream": True}) as answer:
                lines = answer.iter_lines()
                next(lines)
                times.append(time.monotonic() - start)
                for _ in lines:
                    pass
    return statistics.median(times)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("count", "num_connections", "queue"),
    [(1200, 150, 64), pytest.param(10_000, 300, 256, marks=pytest.mark.slow)],
)
def test_overload_is_refused_early_and_nothing_is_lost(
    count: int, num_connections: int, queue: int, promise: Promise
) -> None:
    with server_process(delay_seconds=0.02, limits={"open_requests": queue}) as server:
        assert server.process is not None
        parent = psutil.Process(server.process.pid)
        family = [parent, *parent.children(recursive=True)]
        idle = _first_token_seconds(server)
        before = sum(process.memory_info().rss for process in family)
        tally = asyncio.run(_ask_all(server.port, count, num_connections))
        growth = (sum(process.memory_info().rss for process in family) - before) / _MEBIBYTE
        after = _first_token_seconds(server)
        assert server.metric("yearling_running_requests") == 0
        assert server.metric("yearling_waiting_requests") == 0
        assert server.metric("yearling_kv_blocks_free") == server.metric("yearling_kv_blocks")
    num_refused = len(tally.refusal_seconds)
    assert len(tally.ids) + num_refused == count
    assert len(set(tally.ids)) == len(tally.ids)
    assert num_refused > 0
    assert len(tally.ids) >= queue
    assert growth < 150
    slowest = statistics.quantiles(tally.refusal_seconds, n=100)[98]
    assert slowest < 0.25
    assert after < 1.5 * idle + 0.01
    promise(
        f"{count} requests on {num_connections} connections against a queue of {queue}: "
        f"{len(tally.ids)} answered whole, {num_refused} told 429 (99 % within "
        f"{1000 * slowest:.0f} ms), none lost; {growth:+.0f} MiB; first token {1000 * idle:.1f} ms "
        f"before, {1000 * after:.1f} after"
    )
