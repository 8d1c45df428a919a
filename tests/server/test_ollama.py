"""Ollama's API through its stock client: loading, bounds, vectors, and what is told of models."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from tests.server.fake_model import CONTEXT, ENCODER_CONTEXT, served_encoder, served_model
from tests.server.live import LiveServer, running_server, started
from tests.serving.fake_embedder import WIDTH, vector_of
from yearling.server.adapters import adapter_of
from yearling.server.limits import Limits
from yearling.wire.ollama.request import parse_chat
from yearling.wire.openai.chat import ChatRequest

SAID = [{"role": "user", "content": "Hi"}]
BEGIN, END = 257, 256


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A model whose answers never end, an adapter of it, and an encoder."""
    model = served_model(length=1 << 20)
    adapter = asyncio.run(adapter_of(model, "adapter", tmp_path_factory.mktemp("adapter")))
    with running_server(models=[model, served_encoder()]) as live:
        assert live.service is not None
        live.service.models.add(adapter)
        yield live


@pytest.fixture
def llama(server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url) as client:
        yield client


# --- Loading -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keep_alive", "reason"),
    [(None, "load"), (-1, "load"), ("10m", "load"), (0, "unload"), ("0s", "unload")],
)
def test_a_call_that_says_nothing_is_answered_at_once(
    llama: ollama.Client, keep_alive: Any, reason: str
) -> None:
    for prompt in (None, ""):
        answer = llama.generate("reciter:latest", prompt, keep_alive=keep_alive)
        assert (answer.model, answer.response) == ("reciter", "")
        assert (answer.done, answer.done_reason, answer.eval_count) == (True, reason, None)
        (line,) = llama.generate("reciter", prompt, keep_alive=keep_alive, stream=True)
        assert (line.response, line.done, line.done_reason) == ("", True, reason)
    chat = llama.chat("reciter", [], keep_alive=keep_alive)
    assert (chat.message.role, chat.message.content) == ("assistant", "")
    assert (chat.done, chat.done_reason) == (True, reason)
    (last,) = llama.chat("reciter", [], keep_alive=keep_alive, stream=True)
    assert (last.message.content, last.done, last.done_reason) == ("", True, reason)


def test_loading_generates_nothing(server: LiveServer) -> None:
    said = {"model": "reciter", "prompt": "Hi", "options": {"num_predict": 3}, "stream": False}
    assert server.json("/api/generate", said)[0] == 200
    before = server.metric("yearling_generated_tokens_total")
    assert before > 0
    assert server.json("/api/generate", {"model": "reciter"})[0] == 200
    assert server.json("/api/chat", {"model": "reciter"})[0] == 200
    assert server.metric("yearling_generated_tokens_total") == before


@pytest.mark.parametrize(
    ("call", "status", "said"),
    [
        (lambda c: c.generate("other"), 404, "'other' is not served"),
        (lambda c: c.chat("other", []), 404, "'other' is not served"),
        (lambda c: c.generate("other", keep_alive=0), 404, "'other' is not served"),
        (lambda c: c.generate("encoder"), 400, "is an encoder"),
        (lambda c: c.generate("reciter", suffix="x"), 400, "suffix is not supported"),
        (lambda c: c.generate("reciter", images=["QUJD"]), 400, "images is not supported"),
        (lambda c: c.generate("reciter", options={"mirostat": 2}), 400, "mirostat"),
        (lambda c: c.generate("reciter", keep_alive="long"), 400, "keep_alive"),
    ],
)
def test_loading_is_refused_as_answers_are(
    llama: ollama.Client, call: Any, status: int, said: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=said) as caught:
        call(llama)
    assert caught.value.status_code == status


# --- Bounds ------------------------------------------------------------------------------------


def test_num_predict_is_a_bound_alone(llama: ollama.Client) -> None:
    said = [{"role": "user", "content": "x" * (CONTEXT - 100)}]
    few = llama.chat("reciter", said, options={"num_predict": 7})
    assert (few.eval_count, few.done_reason) == (7, "length")
    for wanted in (CONTEXT, 10 * CONTEXT, -1, -2, 0, -7):
        answer = llama.chat("reciter", said, options={"num_predict": wanted})
        assert answer.prompt_eval_count + answer.eval_count == CONTEXT, wanted
        assert answer.done_reason == "length"
    room = CONTEXT - answer.prompt_eval_count
    for wanted in (room - 1, room):
        answer = llama.chat("reciter", said, options={"num_predict": wanted})
        assert (answer.eval_count, answer.done_reason) == (wanted, "length")


@pytest.mark.parametrize("wanted", [None, 4, -1])
def test_prompt_without_room_is_refused(llama: ollama.Client, wanted: int | None) -> None:
    with pytest.raises(ollama.ResponseError, match="context window") as caught:
        llama.generate("reciter", "x" * CONTEXT, options={"num_predict": wanted})
    assert caught.value.status_code == 400


# --- Vectors -----------------------------------------------------------------------------------


def expected(text: str) -> list[float]:
    return vector_of([BEGIN, *text.encode(), END])


def test_texts_become_vectors_in_order(llama: ollama.Client) -> None:
    one = llama.embed("encoder:latest", "Hi", keep_alive="5m", options={"num_ctx": 8})
    assert [list(vector) for vector in one.embeddings] == [expected("Hi")]
    assert (one.model, one.prompt_eval_count) == ("encoder", len("Hi") + 2)
    assert one.total_duration > 0
    several = llama.embed("encoder", ["Hi", "héron", "A"])
    assert several.embeddings == [expected("Hi"), expected("héron"), expected("A")]
    assert llama.embeddings("encoder", "Hi").embedding == expected("Hi")


def test_dimensions_shorten_to_length_one(llama: ollama.Client) -> None:
    (vector,) = llama.embed("encoder", "Hi", dimensions=2).embeddings
    assert len(vector) == 2 < WIDTH
    assert sum(number * number for number in vector) == pytest.approx(1)


def test_long_text_loses_its_end_unless_that_is_forbidden(llama: ollama.Client) -> None:
    text = "héron " * 1000
    kept = text.encode()[: ENCODER_CONTEXT - 2]
    for truncate in (None, True):
        answer = llama.embed("encoder", ["Hi", text], truncate=truncate)
        assert answer.embeddings == [expected("Hi"), vector_of([BEGIN, *kept, END])]
        assert answer.prompt_eval_count == len("Hi") + 2 + ENCODER_CONTEXT
    with pytest.raises(ollama.ResponseError, match=r"^input\[1\] "):
        llama.embed("encoder", ["Hi", text], truncate=False)
    with pytest.raises(ollama.ResponseError, match=r"^prompt "):
        llama.embeddings("encoder", text)


def test_no_text_gives_no_vector(llama: ollama.Client) -> None:
    for nothing in ("", []):
        answer = llama.embed("encoder", nothing)
        assert (answer.embeddings, answer.prompt_eval_count) == ([], 0)
    assert llama.embeddings("encoder", "").embedding == []
    with pytest.raises(ollama.ResponseError, match="'other' is not served"):
        llama.embed("other", "")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.embed("reciter", "Hi"), "generates text"),
        (lambda c: c.embeddings("reciter", "Hi"), "generates text"),
        (lambda c: c.embed("encoder", "Hi", dimensions=WIDTH + 1), "dimensions is 5"),
        (lambda c: c.embed("encoder", "Hi", options={"temperature": 0}), "temperature is not"),
        (lambda c: c.embed("encoder", "Hi", options={"num_ctx": 1 << 20}), "num_ctx"),
    ],
)
def test_vectors_that_cannot_be_made_are_refused(
    llama: ollama.Client, call: Any, said: str
) -> None:
    with pytest.raises(ollama.ResponseError, match=said):
        call(llama)


# --- What is told of models --------------------------------------------------------------------


def test_models_are_listed_and_each_is_shown(llama: ollama.Client) -> None:
    listed = llama.list().models
    assert [model.model for model in listed] == ["reciter", "encoder", "adapter"]
    assert len({model.digest for model in listed}) == 2, "one fingerprint of the fakes, and another"
    assert all(len(model.digest or "") == 64 for model in listed)
    assert [model.details.parent_model for model in listed] == [None, None, "reciter"]
    reciter, encoder = llama.show("reciter:latest"), llama.show("encoder")
    assert (reciter.capabilities, encoder.capabilities) == (["completion", "tools"], ["embedding"])
    assert (reciter.template, encoder.template) == ("no place for tools", None)
    assert reciter.parameters.split() == ["num_ctx", str(CONTEXT)]
    assert reciter.modelinfo == {}, "nothing is known of the fakes' files"
    assert [model.model for model in llama.ps().models] == ["reciter", "encoder", "adapter"]
    assert llama.ps().models[0].context_length == CONTEXT


def test_what_cannot_be_shown_is_refused(server: LiveServer, llama: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError, match="'other' is not served") as caught:
        llama.show("other")
    assert caught.value.status_code == 404
    assert server.json("/api/show", {"name": "reciter"})[0] == 200, "as older clients ask"
    status, body = server.json("/api/show", {"model": "reciter", "verbose": True})
    assert (status, body["error"].split(":")[0]) == (400, "verbose is not supported")


@pytest.mark.slow
def test_models_on_demand_are_told_of_and_listed_while_loaded(
    smollm2_path: Path, minilm_path: Path
) -> None:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0", "--on-demand"]
    command += ["--model", str(smollm2_path), "--model", str(minilm_path)]
    command += ["--served-model-name", "chat", "--served-model-name", "vectors"]
    with started(command, 60) as live, ollama.Client(host=live.url) as llama:
        chat, vectors = llama.list().models
        assert chat.size == smollm2_path.stat().st_size
        assert vectors.size == (minilm_path / "model.safetensors").stat().st_size
        assert (chat.details.format, chat.details.family) == ("gguf", "llama")
        assert (chat.details.parameter_size, vectors.details.format) == ("134.52M", "safetensors")
        shown = llama.show("chat").modelinfo
        assert shown["general.architecture"] == "llama"
        assert shown["general.parameter_count"] == 134_515_008
        assert shown["llama.context_length"] == 8192
        assert llama.show("vectors").modelinfo["bert.embedding_length"] == 384
        assert llama.ps().models == []
        assert llama.generate("vectors", keep_alive=0).done_reason == "unload"
        (vector,) = llama.embed("vectors", "word " * 1000).embeddings
        assert len(vector) == 384
        assert [model.model for model in llama.ps().models] == ["vectors"]


# --- Tools -------------------------------------------------------------------------------------

ADD = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Add two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
            "required": ["a", "b"],
        },
    },
}


def turns(a: int, b: int) -> list[dict[str, Any]]:
    """A question and the call that answers it, which the next question then gets as well."""
    call = {"function": {"name": "add", "arguments": {"a": a, "b": b}}}
    question = {"role": "user", "content": f"Add {a} and {b}."}
    return [question, {"role": "assistant", "content": "", "tool_calls": [call]}]


@pytest.mark.slow
def test_a_call_that_was_cut_is_none(smollm2_server: LiveServer) -> None:
    said = [*turns(1, 2), *turns(3, 4), {"role": "user", "content": "Add 17 and 25."}]
    how: dict[str, Any] = {"model": "SmolLM2-135M-Instruct.Q4_1", "messages": said, "tools": [ADD]}
    with ollama.Client(host=smollm2_server.url) as llama:
        whole = llama.chat(**how, options={"temperature": 0, "num_predict": 80})
        (call,) = whole.message.tool_calls or []
        assert (call.function.name, call.function.arguments) == ("add", {"a": 17, "b": 25})
        bounds = [{"num_predict": whole.eval_count - fewer} for fewer in (12, 16)]
        for bound, reason in [*((bound, "length") for bound in bounds), ({"stop": ["17"]}, "stop")]:
            options = {"temperature": 0, "num_predict": 80, **bound}
            cut = llama.chat(**how, options=options)
            assert (cut.message.tool_calls, cut.done_reason) == (None, reason)
            lines = list(llama.chat(**how, options=options, stream=True))
            assert [line for line in lines if line.message.tool_calls] == []
            assert (lines[-1].done, lines[-1].done_reason) == (True, reason)


def test_name_of_a_tool_reaches_the_message() -> None:
    result = {"role": "tool", "tool_name": "add", "content": "42"}
    chat = parse_chat({"model": "m", "messages": [*SAID, result]}, Limits().for_requests(), 512)
    assert isinstance(chat, ChatRequest)
    assert (chat.messages[1].role, chat.messages[1].name) == ("tool", "add")
