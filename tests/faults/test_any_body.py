"""No request makes the API answer 5xx: made from its own description, right ones and wrong ones."""

import json
from collections import Counter
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode

from tests.faults.conftest import Promise
from tests.server.live import LiveServer, running_server

pytestmark = pytest.mark.faults

_MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


def _description(server: LiveServer) -> dict[str, Any]:
    """The server's own, where a model is one that is there: else no request got any further."""
    _, _, content = server.request("GET", "/openapi.json")
    document: dict[str, Any] = json.loads(content)
    for schema in document["components"]["schemas"].values():
        if "model" in schema.get("properties", {}):
            schema["properties"]["model"] = {"enum": ["reciter"]}
    return document


def _check_error(path: str, answer: requests.Response) -> None:
    body = answer.json()
    if path.startswith("/api/"):
        assert isinstance(body["error"], str)
    elif path.startswith("/v1/messages"):
        assert body["type"] == "error"
        assert set(body["error"]) == {"type", "message"}
    else:
        assert set(body["error"]) == {"message", "type", "param", "code"}


def _ask(server: LiveServer, operation: Any, mode: GenerationMode, count: int) -> Counter[int]:
    """Make requests of one operation, right or wrong, and count how they are answered."""
    statuses: Counter[int] = Counter()

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        answer = case.call(base_url=server.url)
        status = answer.status_code
        assert status < 500, (case.method, operation.path, case.body, answer.text)
        if status >= 400 and case.method != "HEAD":
            _check_error(operation.path, answer)
        statuses[status] += 1

    ask()
    return statuses


_ADD = {"name": "add", "parameters": {"type": "object"}}
_TOOLS = [{"type": "function", "function": _ADD}]
_SAID = [{"role": "user", "content": "Hi"}]
_CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
_RIGHT: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": _SAID, "tools": _TOOLS}),
    ("/v1/chat/completions", {"messages": [
        *_SAID, {"role": "assistant", "content": None, "tool_calls": [_CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"}, *_SAID]}),
    ("/v1/completions", {"prompt": "x", "n": 2, "echo": True, "logprobs": 2, "best_of": 3}),
    ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **_ADD}]}),
    ("/v1/messages", {"messages": _SAID, "max_tokens": 3, "tools": [
        {"name": "add", "input_schema": {"type": "object"}}]}),
    ("/v1/messages/count_tokens", {"messages": _SAID, "system": "Be brief."}),
    ("/api/chat", {"messages": _SAID, "tools": _TOOLS, "stream": False}),
    ("/api/generate", {"prompt": "x", "stream": False}),
    ("/tokenize", {"prompt": "x"}),
    ("/detokenize", {"tokens": [65]}),
]  # fmt: skip


@pytest.mark.parametrize(("path", "fields"), _RIGHT)
def test_right_requests_of_every_route_are_answered(path: str, fields: dict[str, Any]) -> None:
    """What random requests seldom hit."""
    with running_server() as server:
        status, body = server.json(path, {"model": "reciter", **fields})
    assert status == 200, body


@pytest.mark.timeout(900)
@pytest.mark.parametrize("count", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_no_request_makes_the_api_answer_5xx(count: int, promise: Promise) -> None:
    statuses: Counter[int] = Counter()
    with running_server() as server:
        schema = schemathesis.openapi.from_dict(_description(server))
        operations = [result.ok() for result in schema.get_all_operations()]
        for operation in operations:
            for mode in _MODES if operation.body else _MODES[:1]:
                statuses += _ask(server, operation, mode, count)
        assert server.json("/v1/completions", {"model": "reciter", "prompt": "x"})[0] == 200
    assert {200, 400, 404} <= set(statuses)
    shown = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    promise(
        f"{statuses.total()} requests made from the API's description, right and wrong, to "
        f"{len(operations)} operations: none answered 5xx ({shown})"
    )
