"""Who may use the server: Host, Origin and key, on every route."""

import contextlib
import json

import pytest
from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.routing import Route

from tests.server.fake_model import served_model
from tests.server.live import LiveServer, running_server
from yearling.core.errors import ConfigError
from yearling.server.access import Access
from yearling.server.app import build_app
from yearling.server.config import ServerConfig
from yearling.server.errors import HttpError

KEY = "sk-right-key-0123456789"
PUBLIC = {"/", "/assets/{path:path}", "/health"}
GUARDED = {
    "/metrics",
    "/openapi.json",
    "/v1/models",
    "/v1/models/{name:path}",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/load_lora_adapter",
    "/v1/unload_lora_adapter",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/responses/{response_id}",
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/generate",
    "/api/ps",
    "/api/show",
    "/api/tags",
    "/api/version",
    "/tokenize",
    "/detokenize",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


@pytest.fixture(scope="module")
def guarded():
    config = ServerConfig(port=0, api_keys=(SecretStr("sk-other-key"), SecretStr(KEY)))
    with running_server(config) as live:
        yield live


def _routes() -> list[Route]:
    app = build_app([served_model()], ServerConfig())
    assert all(isinstance(route, Route) for route in app.routes)
    return [route for route in app.routes if isinstance(route, Route)]


@pytest.mark.promised("without a key nothing but what is public answers, however it is spelled")
def test_every_route_is_listed_as_public_or_guarded() -> None:
    assert {route.path for route in _routes()} == PUBLIC | GUARDED


def _spellings(path: str) -> list[str]:
    plain = path.replace("{path:path}", "app.js").replace("{name:path}", "reciter")
    dotted = plain.replace("/v1", "/%76%31", 1) if "/v1" in plain else "/%2e" + plain
    return [plain, "/" + plain, dotted, plain + ";x", plain + "/", plain + "?api_key=" + KEY]


WRONG_KEYS: list[dict[str, str]] = [
    {},
    {"Authorization": "Bearer wrong"},
    {"Authorization": f"Basic {KEY}"},
    {"Authorization": f"Bearer {KEY}x"},
    {"Authorization": f"Bearer {KEY[:-1]}"},
    {"Authorization": f"Bearer {KEY}, Bearer {KEY}"},
    {"Authorization": KEY},
    {"Authorization": "Bearer "},
    {"Authorization": "Bearer \xe9"},
    {"X-Api-Key": f"{KEY}x"},
    {"X-Api-Key": f"Bearer {KEY}"},
    {"X-Api-Key": KEY, "Authorization": "Bearer wrong"},
    {"Cookie": f"Authorization=Bearer {KEY}"},
]


@pytest.mark.promised("without a key nothing but what is public answers, however it is spelled")
@pytest.mark.parametrize("path", sorted(GUARDED))
def test_without_the_key_no_spelling_of_a_guarded_route_answers(
    guarded: LiveServer, path: str
) -> None:
    for spelling in _spellings(path):
        for method in METHODS:
            status, headers, _ = guarded.request(method, spelling)
            assert status == 401, (method, spelling)
            assert headers["www-authenticate"] == "Bearer"
    for headers in WRONG_KEYS:
        status, _, content = guarded.request("GET", _spellings(path)[0], headers=headers)
        assert status == 401, headers
        error = json.loads(content)["error"]
        if path.startswith("/api/"):
            assert "key" in error, "Ollama's errors are a text"
        else:
            assert error["type"] == "authentication_error"


@pytest.mark.promised("without a key nothing but what is public answers, however it is spelled")
def test_two_authorization_headers_are_refused(guarded: LiveServer) -> None:
    lines = f"Authorization: Bearer {KEY}\r\n" * 2
    head = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n"
    assert b" 401 " in guarded.raw(head.encode()).split(b"\r\n")[0]


def test_anthropics_header_carries_a_key_too(guarded: LiveServer) -> None:
    headers = {"X-Api-Key": KEY}
    assert guarded.request("GET", "/v1/models", headers=headers)[0] == 200
    both = {**headers, "Authorization": f"Bearer {KEY}"}
    assert guarded.request("GET", "/v1/models", headers=both)[0] == 200


def test_with_a_key_every_guarded_route_lets_pass(guarded: LiveServer) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    for route in _routes():
        path = _spellings(route.path)[0]
        method = sorted(route.methods)[0]
        body = b"{}" if method == "POST" else None
        status, _, _ = guarded.request(method, path, body, headers)
        other = 404 if "{response_id}" in route.path else 403 if "lora" in route.path else 200
        assert status in (200, 400, other), route.path
    assert guarded.request("GET", "/nothing", headers=headers)[0] == 404
    assert (
        guarded.request("GET", "/v1/models", headers={"authorization": f"bearer {KEY}"})[0] == 200
    )


def test_public_routes_need_no_key(guarded: LiveServer) -> None:
    for path in ("/", "/health", "/assets/app.js"):
        assert guarded.request("GET", path)[0] == 200
        assert guarded.request("HEAD", path)[0] == 200


@pytest.mark.promised("without a key nothing but what is public answers, however it is spelled")
def test_public_routes_are_public_only_as_themselves(guarded: LiveServer) -> None:
    for path in ("//", "/index.html", "/health/", "/health;x", "/healthx", "/assets", "/assetsx"):
        assert guarded.request("GET", path)[0] == 401, path


@pytest.mark.promised("accounts do not see each other in the prefix cache")
def test_accounts_do_not_share_cached_prefixes(guarded: LiveServer) -> None:
    body = {"model": "reciter", "prompt": "shared prefix " * 20, "max_tokens": 1}

    def cached(key: str) -> int:
        headers = {"Authorization": f"Bearer {key}"}
        answer = guarded.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
        return json.loads(answer[2])["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert [cached(KEY) > 0, cached(KEY) > 0, cached("sk-other-key") > 0] == [False, True, False]


GOOD_HOSTS = ("localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:9", "127.9.9.9", "[::1]:8000")
BAD_HOSTS = (
    "example.com",
    "localhost.example.com",
    "127.0.0.1.nip.io",
    "192.168.0.1",
    "0.0.0.0",
    "[::]",
    "169.254.169.254",
    "user@localhost",
    "localhost/x",
    "localhost:99999x",
    "2130706433",
    "",
)
BAD_ORIGINS = (
    "null",
    "http://example.com",
    "https://localhost.example.com",
    "http://localhost:1234",
    "http://127.0.0.2",
    "file://",
    "localhost",
    "chrome-extension://abcdef",
    "http://localhost@example.com",
    "ftp://localhost",
)


@pytest.mark.parametrize("host", GOOD_HOSTS)
def test_own_host_and_origin_are_served(server: LiveServer, host: str) -> None:
    assert server.request("GET", "/v1/models", host=host)[0] == 200
    headers = {"Origin": f"http://{host}"}
    status, given, _ = server.request("GET", "/v1/models", headers=headers, host=host)
    assert status == 200
    assert not any(name.startswith("access-control") for name in given)


@pytest.mark.promised("a web page of another site cannot drive the server")
@pytest.mark.parametrize("host", BAD_HOSTS)
def test_unknown_host_is_refused_on_every_route(server: LiveServer, host: str) -> None:
    for path in ("/", "/health", "/v1/models", "/nothing", "/assets/app.js"):
        status, _, content = server.request("GET", path, host=host)
        # An empty Host and one with a slash are not even HTTP.
        assert status in (421, 400), path
        assert "error" in json.loads(content)


@pytest.mark.promised("a web page of another site cannot drive the server")
@pytest.mark.parametrize("origin", BAD_ORIGINS)
def test_foreign_origin_is_refused_for_every_method_and_type(
    server: LiveServer, origin: str
) -> None:
    for method in METHODS:
        for content_type in ("application/json", "text/plain"):
            headers = {"Origin": origin, "Content-Type": content_type}
            status, given, _ = server.request(method, "/v1/models", headers=headers)
            assert status == 403, method
            assert not any(name.startswith("access-control") for name in given)


@pytest.mark.promised("a web page of another site cannot drive the server")
def test_preflight_grants_nothing(server: LiveServer) -> None:
    headers = {"Origin": "http://127.0.0.1", "Access-Control-Request-Method": "POST"}
    status, given, _ = server.request("OPTIONS", "/v1/chat/completions", headers=headers)
    assert status == 405
    assert not any(name.startswith("access-control") for name in given)


def test_named_host_is_allowed_on_purpose() -> None:
    config = ServerConfig(port=0, allowed_hosts=("chat.example.com",))
    with running_server(config) as live:
        assert live.request("GET", "/health", host="chat.example.com:443")[0] == 200
        assert live.request("GET", "/health", host="other.example.com")[0] == 421


def test_outside_address_without_a_key_does_not_start() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.com"):
        with pytest.raises(ConfigError, match="--api-key"):
            ServerConfig(host=host)
    ServerConfig(host="0.0.0.0", api_keys=(SecretStr(KEY),))
    with pytest.raises(ConfigError, match="blank"):
        ServerConfig(api_keys=(SecretStr(" "),))


def test_outside_address_takes_addresses_but_no_strange_names() -> None:
    config = ServerConfig(host="0.0.0.0", port=0, api_keys=(SecretStr(KEY),))
    with running_server(config) as live:
        assert live.request("GET", "/health", host="192.168.1.5:8000")[0] == 200
        assert live.request("GET", "/health", host="evil.example.com")[0] == 421


def test_key_is_never_shown() -> None:
    config = ServerConfig(api_keys=(SecretStr(KEY),))
    assert KEY not in repr(config)
    assert KEY not in config.model_dump_json()


@pytest.mark.parametrize("key", [KEY, "sk-other-key", "wrong", ""])
def test_every_known_key_is_compared_whatever_the_key(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return left == right

    monkeypatch.setattr("yearling.server.access.hmac.compare_digest", compare)
    access = Access(ServerConfig(api_keys=(SecretStr(KEY), SecretStr("sk-other-key"))))
    with contextlib.suppress(HttpError):
        access.check_key(Headers({"authorization": f"Bearer {key}"}))
    assert len(compared) == 2
    assert all(len(left) == len(right) == 32 for left, right in compared), "digests, not keys"
