"""No body makes the server answer 5xx, and every refusal is an OpenAI error object."""

import json

import pytest

from tests.server.live import LiveServer, parse_answer
from tests.wire.test_json_body import BAD_BODIES

POSTS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
)


def test_ollamas_routes_read_json_of_any_content_type(server: LiveServer) -> None:
    body = b'{"model": "reciter", "messages": [{"role": "user", "content": "Hi"}], "stream": false}'
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, content = server.request("POST", "/api/chat", body, headers)
    assert status == 200, content
    assert json.loads(content)["done"] is True


def assert_error(status: int, content: bytes, *expected: int) -> dict:
    assert status in expected, (status, content)
    body = json.loads(content)
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"]
    assert "Traceback" not in body["error"]["message"]
    assert "detail" not in body
    return body["error"]


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_bad_json_is_a_400(server: LiveServer, body: bytes) -> None:
    status, _, content = server.request("POST", "/v1/chat/completions", body)
    assert_error(status, content, 400)


@pytest.mark.parametrize("path", POSTS)
def test_every_route_reads_bodies_the_same_way(server: LiveServer, path: str) -> None:
    for name in ("empty", "array", "NaN", "lone high surrogate", "100000 arrays", "Latin-1"):
        status, _, content = server.request("POST", path, BAD_BODIES[name])
        assert_error(status, content, 400)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/api/chat",
        "/api/generate",
        "/api/embed",
        "/api/embeddings",
        "/api/show",
    ],
)
def test_routes_of_other_apis_read_them_so_too_and_answer_in_their_form(
    server: LiveServer, path: str
) -> None:
    for name in ("empty", "array", "NaN", "lone high surrogate", "100000 arrays", "Latin-1"):
        status, _, content = server.request("POST", path, BAD_BODIES[name])
        assert status == 400, (name, content)
        body = json.loads(content)
        if path.startswith("/v1/messages"):
            assert (body["type"], body["error"]["type"]) == ("error", "invalid_request_error")
            assert body["error"]["message"]
        else:
            assert set(body) == {"error"}
            assert isinstance(body["error"], str)


@pytest.mark.parametrize(
    "content_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/json; charset=latin-1",
        "application/json; charset=utf-8; x=y",
        "text/json",
        "",
    ],
)
def test_other_content_types_are_refused(server: LiveServer, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    status, _, content = server.request("POST", "/v1/chat/completions", b"{}", headers)
    assert_error(status, content, 415)


def test_json_content_type_may_name_utf8(server: LiveServer) -> None:
    headers = {"Content-Type": "Application/JSON; charset=UTF-8"}
    body = json.dumps({"model": "reciter", "prompt": "x"}).encode()
    assert server.request("POST", "/tokenize", body, headers)[0] == 200


def test_compressed_body_is_refused(server: LiveServer) -> None:
    headers = {"Content-Encoding": "gzip"}
    status, _, content = server.request("POST", "/tokenize", b"\x1f\x8b", headers)
    assert_error(status, content, 415)


@pytest.mark.parametrize("num_bytes", [2 * 1024 * 1024 + 1, 5 * 1024 * 1024])
def test_large_body_is_refused(server: LiveServer, num_bytes: int) -> None:
    body = b'{"prompt": "' + b"x" * num_bytes
    status, _, content = server.request("POST", "/tokenize", body)
    assert_error(status, content, 413)


def test_body_just_below_the_limit_is_read(server: LiveServer) -> None:
    body = json.dumps({"model": "reciter", "prompt": "x" * (2 * 1024 * 1024 - 100)}).encode()
    status, _, content = server.request("POST", "/tokenize", body)
    error = assert_error(status, content, 400)
    assert error["code"] == "context_length_exceeded"


def test_body_of_tiny_chunks_is_read(server: LiveServer) -> None:
    body = json.dumps({"model": "reciter", "prompt": "Hi"}).encode()
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    head += b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    status, _, content = parse_answer(server.raw(head + chunks))
    assert (status, json.loads(content)["tokens"]) == (200, [72, 105])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"GET /\r\n\r\n", 400),  # HTTP/0.9
        (b"hello\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nBad Header: x\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (
            b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\nzz\r\n",
            400,
        ),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 65536 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 8000, 431),
        (b"GET /" + b"x" * 65536 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_not_http_gets_an_error_object(
    server: LiveServer, data: bytes, expected: int
) -> None:
    status, headers, content = parse_answer(server.raw(data))
    assert_error(status, content, expected)
    assert headers["connection"] == "close"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.yaml", 404),
        ("GET", "/health/", 404),
        ("GET", "/assets/../app.py", 404),
        ("GET", "/assets/%2e%2e/%2e%2e/app.py", 404),
        ("GET", "/assets//etc/passwd", 404),
        ("GET", "/assets/", 404),
        ("GET", "/assets/nothing.js", 404),
        ("GET", "/v1/models/nothing", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
        ("POST", "/health", 405),
        ("PATCH", "/", 405),
        ("TRACE", "/health", 405),
        ("BREW", "/health", 405),
    ],
)
def test_unknown_route_or_method_gets_an_error_object(
    server: LiveServer, method: str, path: str, expected: int
) -> None:
    status, headers, content = server.request(method, path)
    assert_error(status, content, expected)
    assert ("allow" in headers) == (expected == 405)


def test_unexpected_failure_is_a_500_that_tells_nothing(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.service is not None

    def fail() -> None:
        raise RuntimeError("the secret is hunter2")

    monkeypatch.setattr(server.service.metrics, "exposition", fail)
    status, headers, content = server.request("GET", "/metrics", headers={"X-Request-Id": "abc"})
    error = assert_error(status, content, 500)
    assert "hunter2" not in error["message"]
    assert headers["x-request-id"] == "abc"
