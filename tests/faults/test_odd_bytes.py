"""Odd bytes on the socket do not hurt the server."""

import contextlib
import random
import re
import socket
from collections import Counter
from collections.abc import Callable

import psutil
import pytest

from tests.faults.conftest import Promise
from tests.server.live import LiveServer, server_process

pytestmark = pytest.mark.faults

_MEBIBYTE = 1 << 20
_SEED = 2023

_METHODS = (b"GET", b"POST", b"DELETE", b"get", b"CONNECT", b"TRACE", b"PRI", b"", b"\x00", b"G\tT")
_TARGETS = (
    b"/health", b"/v1/models", b"/v1/chat/completions", b"//", b"*", b"", b"/%00", b"/%zz",
    b"/\xff\xfe", b"http://localhost/health", b"localhost:80", b"/a b", b"/?" + b"x=y&" * 500,
    b"/" + b"a" * 40_000, b"/../../etc/passwd", b"/v1/models/%2e%2e", b"/assets/..%2f..%2fx",
)  # fmt: skip
_VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/1.10", b"HTTP", b"", b"\r")
_HEADERS = (
    b"Host: localhost", b"Host: evil", b"Host:", b"Host: \x00", b"Content-Length: 5",
    b"Content-Length: -1", b"Content-Length: 99999999999999999999", b"Content-Length: 5, 6",
    b"Content-Length: +5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: gzip", b"Transfer-Encoding : chunked", b"Expect: 100-continue",
    b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c",
    b"Content-Type: application/json", b"Content-Encoding: gzip", b"Authorization: Bearer \xff",
    b": empty", b"no colon", b" folded", b"\tfolded", b"X\x00: y", b"X: " + b"y" * 70_000,
    b"X: a\rY: b", b"X: a\nY: b", b"Accept-Encoding: *", b"Range: bytes=0-0,1-1",
)  # fmt: skip
_BODIES = (
    b"", b"12345", b"{}", b'{"model": "reciter", "messages": []}', b"0\r\n\r\n",
    b"5\r\n12345\r\n0\r\n\r\n", b"5\r\n123\r\n", b"-5\r\n12345\r\n", b"ffffffffffffffff1\r\nx",
    b"5;ext=" + b"x" * 5000 + b"\r\n12345\r\n0\r\n\r\n", b"0\r\nTrailer: x\r\n\r\n",
    b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n", b"\x00" * 1000, b"zz\r\n",
)  # fmt: skip
_STATUS = re.compile(rb"HTTP/1\.1 ([0-9]{3}) ")
_TLS_HELLO = b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(range(160))
_HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def _request(draw: random.Random) -> bytes:
    end = draw.choice((b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r"))
    words = (draw.choice(_METHODS), draw.choice(_TARGETS), draw.choice(_VERSIONS))
    lines = [draw.choice((b" ", b" ", b"  ", b"\t")).join(words)]
    most = 300 if draw.random() < 0.05 else 6
    lines += draw.choices(_HEADERS, k=draw.randrange(most))
    if draw.random() < 0.6:
        lines.insert(1, b"Host: localhost")
    return end.join(lines) + end + end + draw.choice(_BODIES)


def _mutated(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.randrange(1, 8)):
        place = draw.randrange(len(changed) + 1)
        match draw.randrange(3):
            case 0:
                changed[place:place] = draw.randbytes(draw.randrange(1, 5))
            case 1:
                del changed[place : place + draw.randrange(1, 20)]
            case _:
                changed[place : place + 1] = bytes([draw.randrange(256)])
    return bytes(changed)


def _bytes(draw: random.Random) -> bytes:
    forms: list[Callable[[], bytes]] = [
        lambda: b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n",
        lambda: _request(draw),
        lambda: _mutated(draw, _request(draw)),
        lambda: b"".join(_request(draw) for _ in range(draw.randrange(2, 6))),
        lambda: draw.choice((_TLS_HELLO, _HTTP2_PREFACE, b"\r\n" * 1000, b"GET /health\r\n")),
        lambda: draw.randbytes(draw.randrange(2000)),
    ]
    return draw.choices(forms, weights=(1, 6, 4, 2, 1, 1))[0]()


def _send(server: LiveServer, data: bytes) -> bytes:
    """Send in one piece, or byte by byte at first, say that no more comes, and read to the end."""
    answer = b""
    with server.connect() as connection, contextlib.suppress(ConnectionError):
        for place in range(len(data) % 7):
            connection.sendall(data[place : place + 1])
        connection.sendall(data[len(data) % 7 :])
        with contextlib.suppress(OSError):  # closed already
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            answer += piece
    return answer


@pytest.mark.timeout(300)
@pytest.mark.parametrize("count", [600, pytest.param(5000, marks=pytest.mark.slow)])
def test_odd_bytes_do_not_hurt_the_server(count: int, promise: Promise) -> None:
    draw = random.Random(_SEED)
    statuses: Counter[str] = Counter()
    with server_process() as server:
        assert server.process is not None
        process = psutil.Process(server.process.pid)
        for _ in range(100):
            _send(server, _bytes(draw))
        before = process.memory_info().rss
        for _ in range(count):
            data = _bytes(draw)
            found = [status.decode() for status in _STATUS.findall(_send(server, data))]
            assert not any(status.startswith("5") for status in found), (found, data[:300])
            statuses.update(found or ["closed"])
        growth = (process.memory_info().rss - before) / _MEBIBYTE
        assert growth < 50
        body = {"model": "reciter", "prompt": "x", "max_tokens": 3}
        assert server.json("/v1/completions", body)[0] == 200
        assert server.process.poll() is None
    assert {"200", "400"} <= set(statuses), "some of it is right, most is not"
    promise(
        f"{count} odd requests on the socket: none answered 5xx, {growth:.0f} MiB more memory, the "
        f"server goes on ({', '.join(f'{n} {status}' for status, n in statuses.most_common())})"
    )
