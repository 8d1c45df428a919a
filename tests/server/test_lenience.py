"""Fields that are not supported: refused, or passed over and named."""

import json
import time
from typing import Any

import pytest

from tests.server.live import LiveServer, running_server
from yearling.server.config import ServerConfig

SAID = [{"role": "user", "content": "Hi"}]
TEXT = {"type": "text", "text": "Hi"}
CASES: list[tuple[str, dict[str, Any], list[str]]] = [
    ("/v1/chat/completions", {"messages": SAID, "reasoning_effort": "high"}, ["reasoning_effort"]),
    ("/v1/chat/completions", {"messages": SAID, "mood": 1, "a\r\nb": 2}, ["mood", "a%0D%0Ab"]),
    ("/v1/completions", {"prompt": "x", "suffix": "y"}, ["suffix"]),
    ("/v1/responses", {"input": "Hi", "background": True}, ["background"]),
    ("/v1/messages", {"messages": SAID, "max_tokens": 3, "speed": "fast"}, ["speed"]),
    ("/v1/responses", {"input": "Hi", "include": ["reasoning.encrypted_content"]}, ["include"]),
    ("/tokenize", {"prompt": "x", "mood": 1}, ["mood"]),
    ("/api/chat", {"messages": SAID, "stream": False, "think": True}, ["think"]),
    (
        "/v1/chat/completions",
        {"messages": [SAID[0] | {"content": [TEXT | {"cache_control": {}}, TEXT | {"mood": 1}]}]},
        ["messages[0].content[0].cache_control", "messages[0].content[1].mood"],
    ),
    (
        "/api/chat",
        {"messages": SAID, "stream": False, "options": {"num_thread": 1}},
        ["options.num_thread"],
    ),
]


def _ask(server: LiveServer, path: str, fields: dict[str, Any]) -> tuple[int, dict[str, str]]:
    body = json.dumps({"model": "reciter", **fields}).encode()
    status, headers, _ = server.request("POST", path, body)
    return status, headers


@pytest.mark.parametrize(("path", "fields", "names"), CASES)
def test_unsupported_fields_are_passed_over_and_named(
    path: str, fields: dict[str, Any], names: list[str]
) -> None:
    with running_server(ServerConfig(port=0, is_lenient=True)) as server:
        status, headers = _ask(server, path, fields)
    assert (status, headers["x-ignored-params"].split(", ")) == (200, names)


@pytest.mark.parametrize(("path", "fields", "names"), CASES)
def test_without_it_they_are_refused(
    server: LiveServer, path: str, fields: dict[str, Any], names: list[str]
) -> None:
    status, headers = _ask(server, path, fields)
    assert status == 400
    assert "x-ignored-params" not in headers


def test_fields_beyond_the_most_are_refused_at_once() -> None:
    with running_server(ServerConfig(port=0, is_lenient=True)) as server:
        few = {f"\U0001f600{number}" * 30: 1 for number in range(32)}
        status, headers = _ask(server, "/v1/chat/completions", {"messages": SAID, **few})
        assert status == 200
        assert len(headers["x-ignored-params"]) < 4096
        many = {f"k{number}": 1 for number in range(50_000)}
        start = time.monotonic()
        assert _ask(server, "/v1/chat/completions", {"messages": SAID, **many})[0] == 400
        assert time.monotonic() - start < 5


def test_wrong_values_are_refused_all_the_same() -> None:
    with running_server(ServerConfig(port=0, is_lenient=True)) as server:
        for fields in ({"messages": SAID, "temperature": 99}, {"messages": [{"role": "king"}]}):
            assert _ask(server, "/v1/chat/completions", fields)[0] == 400
        status, headers = _ask(server, "/v1/chat/completions", {"messages": SAID})
        assert status == 200
        assert "x-ignored-params" not in headers
