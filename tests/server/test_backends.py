"""`--backend openai:URL`: a real llama.cpp server behind our address, keys and list of models."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO

import openai
import pytest

from tests.server.live import ROOT, LiveServer, started

SERVE = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
QUESTION = [{"role": "user", "content": "Say hi."}]


def pipe(stream: "IO[str] | None") -> "IO[str]":
    assert stream is not None
    return stream


@pytest.fixture(scope="module")
def llama_cpp(smollm2_path: Path) -> Iterator["tuple[str, subprocess.Popen[str]]"]:
    """Its address, and the process; it demands the key `sk-backend`."""
    command = [sys.executable, "-m", "tests.server.llama_cpp", str(smollm2_path)]
    with subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield pipe(process.stdout).readline().strip(), process
        process.kill()


@pytest.fixture(scope="module")
def gateway(
    smollm2_path: Path, llama_cpp: "tuple[str, subprocess.Popen[str]]"
) -> Iterator[LiveServer]:
    """One model of its own and one of llama.cpp, for clients with the key `sk-ours`."""
    options = ["--model", str(smollm2_path), "--served-model-name", "here", "--api-key", "sk-ours"]
    options += ["--backend", f"openai:{llama_cpp[0]}/v1", "--backend-key", "sk-backend"]
    with started([*SERVE, *options], seconds=60) as live:
        yield live


@pytest.fixture(scope="module")
def client(gateway: LiveServer) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-ours", max_retries=0)


def test_models_of_both_are_listed(client: openai.OpenAI, llama_cpp) -> None:
    owners = {model.id: model.owned_by for model in client.models.list()}
    assert owners == {"here": "yearling", "elsewhere": llama_cpp[0].removeprefix("http://")}
    assert client.models.retrieve("elsewhere").id == "elsewhere"


@pytest.mark.parametrize("model", ["here", "elsewhere"])
def test_both_answer_whole_and_in_pieces(client: openai.OpenAI, model: str) -> None:
    settings = {"model": model, "messages": QUESTION, "max_tokens": 8, "temperature": 0}
    whole = client.chat.completions.create(**settings)
    streamed = client.chat.completions.create(**settings, stream=True)
    pieces = [chunk.choices[0].delta.content or "" for chunk in streamed if chunk.choices]
    assert len(pieces) > 3
    assert whole.choices[0].message.content
    assert "".join(pieces) == whole.choices[0].message.content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 8
    text = client.completions.create(model=model, prompt="One two three", max_tokens=4)
    assert text.choices[0].text


def test_the_backend_judges_its_own_fields(client: openai.OpenAI) -> None:
    """`mirostat` is llama.cpp's, and no field of ours."""
    ask = client.completions.create
    kept = ask(model="elsewhere", prompt="One", max_tokens=2, extra_body={"mirostat": 2})
    assert kept.choices[0].text
    with pytest.raises(openai.BadRequestError, match="mirostat"):
        ask(model="here", prompt="One", max_tokens=2, extra_body={"mirostat": 2})
    with pytest.raises(openai.APIStatusError) as refused:
        ask(model="elsewhere", prompt="One", max_tokens=2, extra_body={"grammar": "root ::= ("})
    assert refused.value.status_code == 400


def test_other_routes_say_where_it_answers(gateway: LiveServer) -> None:
    body = (
        b'{"model": "elsewhere", "max_tokens": 4, "messages": [{"role": "user", "content": "a"}]}'
    )
    key = {"Authorization": "Bearer sk-ours"}
    status, _, content = gateway.request("POST", "/v1/messages", body, key)
    assert status == 400
    assert b"a model of another server" in content


@pytest.mark.parametrize("key", [{}, {"Authorization": "Bearer sk-backend"}])
def test_only_our_own_keys_open_the_backend(gateway: LiveServer, key: dict[str, str]) -> None:
    body = b'{"model": "elsewhere", "prompt": "a", "max_tokens": 1}'
    assert gateway.request("POST", "/v1/completions", body, key)[0] == 401


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--backend", "http://127.0.0.1:9/v1"], "give the plain address"),
        (["--backend", "openai:http://127.0.0.1:9/v1"], "did not list its models"),
        (["--backend", "openai:http://me:secret@127.0.0.1:9/v1"], "give the plain address"),
        (["--backend-key", "sk"], "--backend-key is for --backend"),
    ],
)
def test_a_backend_that_is_none_stops_the_start(options: list[str], words: str) -> None:
    ended = subprocess.run([*SERVE, *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode != 0
    said = ended.stderr + ended.stdout
    assert words in " ".join(said.replace("│", "").split())
    assert "secret" not in said


def test_two_models_of_one_name_stop_the_start(smollm2_path: Path, llama_cpp) -> None:
    options = ["--model", str(smollm2_path), "--served-model-name", "elsewhere"]
    options += ["--backend", f"openai:{llama_cpp[0]}/v1", "--backend-key", "sk-backend"]
    ended = subprocess.run([*SERVE, *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 1
    assert "two models would be called 'elsewhere'" in ended.stderr


class Refusing(BaseHTTPRequestHandler):
    """Lists a model to everybody, sends one path elsewhere, and lets nobody in."""

    def do_GET(self) -> None:
        content = b'{"data": [{"id": "locked", "created": null}]}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self.send_response(307 if self.path.endswith("/embeddings") else 401)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.send_header("Content-Length", "18")
        self.end_headers()
        self.wfile.write(b"wrong key: sk-back")


def test_a_backend_that_refuses_us_is_not_our_clients_fault() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as backend:
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        address = f"openai:http://127.0.0.1:{backend.server_port}/v1"
        with started([*SERVE, "--backend", address], seconds=60) as live:
            for path, field in (("/v1/completions", "prompt"), ("/v1/embeddings", "input")):
                status, said = live.json(path, {"model": "locked", field: "a"})
                assert (status, said["error"]["code"]) == (502, "backend_refused")
                assert "sk-back" not in str(said)
            status, said = live.json("/v1/completions", {"model": "nowhere", "prompt": "a"})
            assert (status, "there is locked" in said["error"]["message"]) == (404, True)
        backend.shutdown()


class Endless(Refusing):
    """Streams one piece, and then nothing more."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(b'data: {"choices": []}\n\n')
        self.wfile.flush()
        time.sleep(20)


def test_a_stream_that_the_end_of_the_server_cuts_says_so() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endless) as backend:
        backend.daemon_threads = True
        threading.Thread(target=backend.serve_forever, daemon=True).start()
        address = f"openai:http://127.0.0.1:{backend.server_port}/v1"
        with started([*SERVE, "--backend", address], seconds=60) as live:
            body = b'{"model": "locked", "prompt": "a", "stream": true}'
            head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            with live.connect() as connection:
                connection.sendall(head.encode() + body)
                said = b""
                while b"choices" not in said:
                    said += connection.recv(65536)
                assert live.process is not None
                for _ in range(2):  # the second ends it now
                    live.process.send_signal(signal.SIGTERM)
                    time.sleep(0.3)
                while piece := connection.recv(65536):
                    said += piece
            assert b"shutting_down" in said
            assert live.process.wait(10) != 0
        backend.shutdown()


def test_a_dead_backend_is_told_and_costs_the_others_nothing(
    client: openai.OpenAI, llama_cpp: "tuple[str, subprocess.Popen[str]]"
) -> None:
    """Last, for it kills the backend: in the middle of an answer, which ends with an error."""
    running = client.completions.create(
        model="elsewhere", prompt="Once upon a time", max_tokens=400, stream=True
    )
    next(iter(running))
    llama_cpp[1].kill()
    with pytest.raises(openai.APIError, match="broke off"):
        for _ in running:
            pass
    with pytest.raises(openai.APIStatusError) as dead:
        client.completions.create(model="elsewhere", prompt="One", max_tokens=2)
    assert (dead.value.status_code, dead.value.code) == (502, "backend_unreachable")
    assert client.completions.create(model="here", prompt="One", max_tokens=2).choices[0].text
