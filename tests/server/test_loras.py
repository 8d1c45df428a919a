"""Adapters over HTTP: at start, by request, through a crash, and who may change them."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models.adapter_folders import write_adapter
from tests.server.live import LiveServer, started

SIZES = {"q_proj": (576, 576), "v_proj": (192, 576)}
MODULES = {
    f"model.layers.{layer}.self_attn.{name}": size
    for layer in range(30)
    for name, size in SIZES.items()
}
PROMPT = {"prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("loras")
    return [write_adapter(root / str(n), MODULES, seed=n, size=0.5) for n in range(2)]


@pytest.fixture(scope="module")
def live(smollm2_path: Path, folders: list[Path]) -> Iterator[LiveServer]:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    command += ["--model", str(smollm2_path), "--served-model-name", "base"]
    with started([*command, "--lora", f"first={folders[0]}", "--allow-lora-changes"], 60) as live:
        yield live


def text(live: LiveServer, model: str) -> str:
    status, answer = live.json("/v1/completions", {"model": model, **PROMPT})
    assert status == 200, answer
    return answer["choices"][0]["text"]


def test_adapter_is_a_model_of_its_own_name(live: LiveServer) -> None:
    listed = json.loads(live.request("GET", "/v1/models")[2])["data"]
    models = {model["id"]: model.get("parent") for model in listed}
    assert models == {"base": None, "first": "base"}
    assert text(live, "base").startswith(" Paris")
    assert text(live, "first") != text(live, "base")
    body = {"model": "first", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    assert live.json("/v1/chat/completions", body)[1]["model"] == "first"


def test_adapter_is_loaded_survives_a_crash_and_is_unloaded(
    live: LiveServer, folders: list[Path]
) -> None:
    body = {"lora_name": "second", "lora_path": str(folders[1])}
    assert live.json("/v1/load_lora_adapter", body)[1]["parent"] == "base"
    before = [text(live, name) for name in ("base", "first", "second")]
    assert len(set(before)) == 3
    _kill_worker(live)
    assert [text(live, name) for name in ("base", "first", "second")] == before
    assert live.json("/v1/unload_lora_adapter", {"lora_name": "second"})[0] == 200
    status, answer = live.json("/v1/completions", {"model": "second", **PROMPT})
    assert (status, answer["error"]["code"]) == (404, "model_not_found")


def _kill_worker(live: LiveServer) -> None:
    assert live.process is not None
    children = Path(f"/proc/{live.process.pid}/task/{live.process.pid}/children").read_text()
    for child in map(int, children.split()):
        command = Path(f"/proc/{child}/cmdline").read_bytes()
        if b"worker_process" in command:
            os.kill(child, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while live.request("GET", "/health")[0] == 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    while live.request("GET", "/health")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("body", "parameter", "complaint"),
    [
        ({"lora_name": "first", "lora_path": "FOLDER"}, "lora_name", "served here already"),
        ({"lora_name": "base", "lora_path": "FOLDER"}, "lora_name", "served here already"),
        ({"lora_name": "x", "lora_path": "/nowhere"}, "lora_path", "no adapter_config.json"),
        ({"lora_name": "x", "lora_path": "a\0b"}, "lora_path", "no adapter_config.json"),
        ({"lora_name": "x", "lora_path": "/" + "x" * 300}, "lora_path", "name too long"),
        ({"lora_name": "x"}, "lora_path", "required"),
        (
            {"lora_name": "x", "lora_path": "FOLDER", "base_model_name": "first"},
            "base_model_name",
            "is an adapter itself",
        ),
    ],
)
def test_wrong_requests_to_load_are_refused(
    live: LiveServer, folders: list[Path], body: dict[str, str], parameter: str, complaint: str
) -> None:
    body = {key: str(folders[1]) if value == "FOLDER" else value for key, value in body.items()}
    status, answer = live.json("/v1/load_lora_adapter", body)
    assert status == 400, answer
    assert answer["error"]["param"] == parameter
    assert complaint in answer["error"]["message"]


def test_model_itself_is_not_unloaded(live: LiveServer) -> None:
    status, answer = live.json("/v1/unload_lora_adapter", {"lora_name": "base"})
    assert (status, answer["error"]["param"]) == (400, "lora_name")


def test_fixed_server_changes_nothing(server: LiveServer) -> None:
    for path in ("/v1/load_lora_adapter", "/v1/unload_lora_adapter"):
        status, answer = server.json(path, {"lora_name": "x", "lora_path": "/tmp"})
        assert (status, answer["error"]["code"]) == (403, "lora_changes_forbidden")
        assert "--allow-lora-changes" in answer["error"]["message"]
