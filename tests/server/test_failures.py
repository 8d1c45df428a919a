"""What clients see when the engine fails, stays silent or takes too long."""

import contextlib
import json
from collections.abc import Iterator

import pytest

from tests.server.fake_model import CONTEXT
from tests.server.live import LiveServer, running_server, wait_until
from yearling.server.config import ServerConfig
from yearling.server.limits import Limits

BODY = {"model": "reciter", "prompt": "Hello", "max_tokens": 20}


def _stream(server: LiveServer, **more: object) -> tuple[int, list[str]]:
    """The events of a stream, or the body of a refusal as the only one."""
    body = json.dumps(BODY | {"stream": True} | more).encode()
    status, _, content = server.request("POST", "/v1/completions", body)
    return status, [event for event in content.decode().split("\n\n") if event]


def test_failure_in_mid_stream_is_an_error_object_and_the_end() -> None:
    with running_server(fail_on_call=5) as server:
        status, events = _stream(server)
        assert status == 200
        assert len(events) > 1
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "server_error"
        assert "[DONE]" not in events[-1]
        status, _, content = server.request("GET", "/health")
        assert status == 503
        assert "error" in json.loads(content)
        assert server.json("/v1/completions", BODY)[0] == 503


def test_failure_before_the_first_token_has_its_own_status() -> None:
    with running_server(fail_on_call=1) as server:
        status, events = _stream(server)
        assert status >= 500
        assert set(json.loads(events[0])) == {"error"}


def test_failure_of_one_request_leaves_its_neighbours_alone() -> None:
    bad = 7
    with running_server(bad_token=bad) as server:
        body = BODY | {"prompt": [bad, 8, 9]}
        status, answer = server.json("/v1/completions", body)
        assert status == 500
        assert answer["error"]["type"] == "server_error"
        assert server.json("/v1/completions", BODY)[0] == 200
        assert server.request("GET", "/health")[0] == 200


def test_silent_stream_shows_signs_of_life() -> None:
    limits = Limits(stream_silence_seconds=0)
    with running_server(ServerConfig(port=0, limits=limits), delay_seconds=0.2) as server:
        status, events = _stream(server, max_tokens=3)
        assert status == 200
        assert ": still here" in events
        assert events[-1] == "data: [DONE]"
        data = [json.loads(event[6:]) for event in events if event.startswith("data: {")]
        assert "".join(chunk["choices"][0]["text"] for chunk in data) == "The"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_request_that_takes_too_long_is_ended(is_streamed: bool) -> None:
    limits = Limits(request_seconds=1)
    config = ServerConfig(port=0, limits=limits)
    with running_server(config, delay_seconds=0.1, length=1000) as server:
        status, events = _stream(server, stream=is_streamed, max_tokens=500)
        assert status == (200 if is_streamed else 504)
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["code"] == "request_timeout"
        wait_until(lambda: server.metric("yearling_running_requests") == 0, 1, "nothing runs")


@contextlib.contextmanager
def _busy_server(limits: Limits) -> Iterator[LiveServer]:
    """A server with one long stream under way."""
    config = ServerConfig(port=0, limits=limits)
    body = json.dumps(BODY | {"stream": True, "max_tokens": 500}).encode()
    head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    with (
        running_server(config, delay_seconds=0.05, length=1000) as server,
        server.connect() as connection,
    ):
        connection.sendall(head.encode() + body)
        assert connection.recv(100).startswith(b"HTTP/1.1 200 ")
        yield server


def test_full_queue_says_when_to_come_back() -> None:
    with _busy_server(Limits(open_prompt_tokens=10)) as server:
        status, headers, content = server.request(
            "POST", "/v1/completions", json.dumps(BODY | {"prompt": "Too much"}).encode()
        )
        assert (status, headers["retry-after"]) == (429, "1")
        assert json.loads(content)["error"]["type"] == "rate_limit_error"


def test_more_answers_than_may_be_open_are_refused_for_good() -> None:
    """Whoever is told 429 asks again; these would never find room."""
    with running_server(ServerConfig(port=0, limits=Limits(open_requests=4))) as server:
        body = BODY | {"prompt": ["a", "b", "c"], "n": 2, "best_of": 2, "max_tokens": 1}
        status, answer = server.json("/v1/completions", body)
        assert (status, answer["error"]["param"]) == (400, "n")
        assert "6 answers at once, and at most 4" in answer["error"]["message"]
        assert server.json("/v1/completions", body | {"prompt": ["a", "b"]})[0] == 200


def test_full_queue_refuses_before_it_looks_at_a_prompt() -> None:
    too_long = "x" * (CONTEXT + 1)
    with _busy_server(Limits(open_requests=1)) as server:
        for path, prompt in (
            ("/v1/completions", {"prompt": too_long}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": too_long}]}),
        ):
            status, answer = server.json(path, {"model": "reciter", **prompt})
            assert (status, answer["error"]["code"]) == (429, "rate_limit_exceeded")
