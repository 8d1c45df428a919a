"""Models, health, metrics, the page, and the headers every answer has."""

import json
import re

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.server.fake_model import served_model
from tests.server.live import LiveServer, running_server
from yearling.serving.async_engine import LocalEngine


def test_models_are_listed(server: LiveServer) -> None:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any") as client:
        assert [model.id for model in client.models.list()] == ["reciter"]
        model = client.models.retrieve("reciter")
        assert (model.object, model.owned_by) == ("model", "yearling")
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("org/other")


def test_health_is_ok_when_ready(server: LiveServer) -> None:
    status, _, content = server.request("GET", "/health")
    assert (status, json.loads(content)) == (200, {"status": "ok"})


def test_not_ready_model_is_503_everywhere_it_matters() -> None:
    class NeverReady(LocalEngine):
        async def start(self) -> None:
            self.state = "starting"

    from tests.server.fake_model import build_engine

    with running_server(models=[served_model(NeverReady(build_engine()))]) as live:
        body = {"model": "reciter", "prompt": "x"}
        for status, answer in (
            live.json("/v1/completions", body),
            live.json(
                "/v1/chat/completions",
                {"model": "reciter", "messages": [{"role": "user", "content": "x"}]},
            ),
        ):
            assert status == 503
            assert answer["error"]["code"] == "model_starting"
        status, headers, _ = live.request("GET", "/health")
        assert (status, headers["retry-after"]) == (503, "1")
        assert live.request("GET", "/v1/models")[0] == 200
        assert live.json("/tokenize", body)[0] == 200


def test_metrics_count_what_happened() -> None:
    with running_server() as live:
        live.json("/v1/completions", {"model": "reciter", "prompt": "Hello", "max_tokens": 7})
        live.request("GET", "/nothing")
        live.request("BREW", "/health")
        _, headers, content = live.request("GET", "/metrics")
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        families = {
            family.name: family for family in text_string_to_metric_families(content.decode())
        }
        samples = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in families.values()
            for sample in family.samples
        }
    assert samples["yearling_prompt_tokens_total", "reciter"] == 5
    assert samples["yearling_generated_tokens_total", "reciter"] == 7
    assert samples["yearling_requests_total", "length", "reciter"] == 1
    assert samples["yearling_time_to_first_token_seconds_count", "reciter"] == 1
    assert samples["yearling_inter_token_seconds_count", "reciter"] == 6
    assert samples["yearling_running_requests", "reciter"] == 0
    assert samples["yearling_kv_blocks_free", "reciter"] == 2048
    assert samples["yearling_model_ready", "reciter"] == 1
    assert samples["yearling_http_requests_total", "/v1/completions", "200", "POST"] == 1 or (
        samples["yearling_http_requests_total", "/v1/completions", "POST", "200"] == 1
    )
    assert not any("BREW" in key or "/nothing" in key for key in samples)
    assert all(family.documentation for family in families.values())


def test_request_id_is_echoed_or_made(server: LiveServer) -> None:
    _, headers, _ = server.request("GET", "/health", headers={"X-Request-ID": "abc-1.2:3"})
    assert headers["x-request-id"] == "abc-1.2:3"
    for wrong in ("", "x" * 129, "a b", "\x7f", "é"):
        _, headers, _ = server.request("GET", "/health", headers={"X-Request-ID": wrong})
        assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])


def test_page_may_only_talk_to_its_own_server(server: LiveServer) -> None:
    status, headers, content = server.request("GET", "/")
    assert status == 200
    assert headers["content-type"].startswith("text/html")
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'self'; ")
    assert "http" not in policy
    assert "unsafe-eval" not in policy
    assert re.search(r"script-src[^;]*unsafe-inline", policy) is None
    assert b"<script>" not in content


def test_assets_are_cached_by_tag(server: LiveServer) -> None:
    status, headers, content = server.request("GET", "/assets/app.js")
    assert (status, headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert content
    tag = headers["etag"]
    status, _, content = server.request("GET", "/assets/app.js", headers={"If-None-Match": tag})
    assert (status, content) == (304, b"")


def test_every_file_of_the_page_has_a_type(server: LiveServer) -> None:
    from yearling.server.routes.page import _listing, _read

    types = {path.name: _read(path).media_type for path in _listing().values()}
    assert len(types) > 5
    unknown = {name for name, kind in types.items() if kind == "application/octet-stream"}
    assert all("LICENSE" in name.upper() or "." not in name for name in unknown), unknown


def test_answers_are_never_sniffed_or_stored(server: LiveServer) -> None:
    for path in ("/v1/models", "/nothing", "/health"):
        _, headers, _ = server.request("GET", path)
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_log_holds_no_prompt_and_no_key(
    server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    body = {"model": "reciter", "prompt": "canary-prompt", "user": "u\r\n1", "max_tokens": 2}
    headers = {"Authorization": "Bearer canary-key"}
    server.request("POST", "/v1/completions", json.dumps(body).encode(), headers)
    server.request("POST", "/v1/completions", b'{"prompt": "canary-prompt", "x": 1}', headers)
    assert "is for user" in caplog.text
    assert "canary" not in caplog.text
