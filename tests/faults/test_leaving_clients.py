"""A client that leaves stops costing, wherever in its request it leaves."""

import contextlib
import json
import random
import socket
import struct
import threading
import time

import pytest

from tests.faults.conftest import Promise
from tests.server.live import LiveServer, running_server, wait_until
from yearling.server.config import ServerConfig
from yearling.server.limits import Limits

pytestmark = pytest.mark.faults

NUM_CLIENTS = 200
SLOW = {"delay_seconds": 0.01, "length": 10_000}


def _request(*, is_streamed: bool, path: str = "/v1/completions") -> bytes:
    fields = {"model": "reciter", "prompt": "Hello " * 5, "max_tokens": 1500, "stream": is_streamed}
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _leave_at_random(server: LiveServer, index: int) -> None:
    chance = random.Random(index)
    request = _request(is_streamed=chance.random() < 0.7)
    with server.connect() as connection:
        if chance.random() < 0.5:  # leave with RST instead of FIN
            linger = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        if chance.random() < 0.3:  # before the request is whole
            connection.sendall(request[: chance.randrange(len(request))])
            return
        connection.sendall(request)
        connection.settimeout(chance.random() * 1.5)
        try:
            for _ in range(chance.randrange(20)):
                if not connection.recv(chance.randrange(1, 2000)):
                    return
        except TimeoutError:
            return


def _is_at_rest(server: LiveServer) -> bool:
    free, blocks = server.metric("yearling_kv_blocks_free"), server.metric("yearling_kv_blocks")
    running = server.metric("yearling_running_requests")
    return free == blocks > 0 and running + server.metric("yearling_waiting_requests") == 0


def test_after_200_leaving_clients_nothing_runs_and_every_block_is_free(
    promise: Promise,
) -> None:
    with running_server(delay_seconds=0.005, length=10_000) as server:
        threads = [
            threading.Thread(target=_leave_at_random, args=(server, index))
            for index in range(NUM_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: server.metric("yearling_running_requests") > 5, 10, "some run")
        for thread in threads:
            thread.join()
        wait_until(lambda: _is_at_rest(server), 1.0, "nothing runs, every block is free")
        service = server.service
        assert service is not None
        assert service.num_open_requests == 0
        model = service.models.get("reciter")
        assert (model.admission.num_requests, model.admission.num_prompt_tokens) == (0, 0)
        cancelled = server.metric("yearling_requests_total")
        assert cancelled > 50
        assert server.json("/v1/completions", {"model": "reciter", "prompt": "x"})[0] == 200
    promise(
        f"{NUM_CLIENTS} clients that leave at a random byte, half with a reset: a second later "
        "nothing runs and every cache block is free"
    )


@pytest.mark.parametrize("is_streamed", [True, False])
def test_one_leaving_client_stops_its_work_at_once(is_streamed: bool) -> None:
    with running_server(delay_seconds=0.005, length=10_000) as server:
        with server.connect() as connection:
            connection.sendall(_request(is_streamed=is_streamed))
            wait_until(lambda: server.metric("yearling_running_requests") == 1, 5, "it runs")
        waited = wait_until(lambda: _is_at_rest(server), 1.0, "it ended")
        assert waited < 0.5


def test_half_open_connections_are_closed_and_do_not_hold_up_others(promise: Promise) -> None:
    limits = Limits(header_seconds=1, body_grace_seconds=1)
    with running_server(ServerConfig(port=0, limits=limits)) as server:
        silent = [server.connect() for _ in range(100)]
        halves = [server.connect() for _ in range(100)]
        bodies = [server.connect() for _ in range(100)]
        whole = _request(is_streamed=False)
        for connection in halves:
            connection.sendall(whole[:30])
        for connection in bodies:
            connection.sendall(whole[:-10])
        start = time.monotonic()
        assert server.request("GET", "/health")[0] == 200
        assert time.monotonic() - start < 1.0
        for connection in silent + halves + bodies:
            with connection:
                connection.settimeout(5)
                assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")
                connection.settimeout(0.2)
        assert time.monotonic() - start < 5
    promise("300 connections left half open: others are served meanwhile, and each is told 408")


def test_dripping_headers_do_not_extend_the_deadline() -> None:
    with (
        running_server(ServerConfig(port=0, limits=Limits(header_seconds=1))) as server,
        server.connect() as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n")
        start = time.monotonic()
        with contextlib.suppress(OSError):
            while time.monotonic() - start < 5:
                connection.sendall(b"X: y\r\n")
                time.sleep(0.1)
        assert time.monotonic() - start < 3


def test_client_that_never_reads_is_cut_and_others_go_on() -> None:
    limits = Limits(stream_stall_seconds=1)
    config = ServerConfig(port=0, limits=limits)
    # Small kernel buffers on both sides, so that it is the server's own buffer that fills.
    with running_server(config, send_buffer_bytes=4096, **SLOW) as server:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        with connection:
            fields = {"model": "reciter", "prompt": ["x"] * 8, "max_tokens": 1500}
            body = json.dumps(fields | {"stream": True, "logprobs": 5}).encode()
            head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
            head += "Content-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            wait_until(lambda: server.metric("yearling_running_requests") > 0, 5, "it runs")
            assert server.json("/v1/completions", {"model": "reciter", "prompt": "x"})[0] == 200
            wait_until(lambda: _is_at_rest(server), 20, "the stalled stream was cut")
        _, _, content = server.request("GET", "/metrics")
    # Without the cut, its requests would have ended by their length.
    assert b'finish_reason="cancelled",model="reciter"} 8.0' in content


def test_too_many_connections_are_told_so() -> None:
    with running_server(ServerConfig(port=0, limits=Limits(connections=20))) as server:
        held = [server.connect() for _ in range(20)]
        answer = server.raw(b"")
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after" in answer
        for connection in held:
            connection.close()
        wait_until(
            lambda: server.raw(
                b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            ).startswith(b"HTTP/1.1 200 "),
            2,
            "room again",
        )


def test_refusal_of_large_numbers_costs_nothing() -> None:
    with running_server() as server:
        for fields in (
            {"n": 10**15},
            {"max_tokens": 10**15},
            {"logprobs": True, "top_logprobs": 10**15},
            {"stop": ["x"] * 100_000},
            {"logit_bias": {str(i): 1 for i in range(100_000)}},
            {"stop_token_ids": list(range(100_000))},
        ):
            start = time.monotonic()
            body = {"model": "reciter", "messages": [{"role": "user", "content": "x"}]}
            assert server.json("/v1/chat/completions", body | fields)[0] == 400
            assert time.monotonic() - start < 1.0
