"""Beam search over HTTP: the answers of `LLM.beam_search`, and what it does not go with."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.server.fake_model import ANSWER, END, RecitingExecutor, served_model
from tests.server.live import LiveServer, running_server
from tests.serving.fake_tokenizer import ByteTokenizer
from yearling import LLM
from yearling.core.errors import RequestError
from yearling.server.limits import Limits
from yearling.serving.async_engine import LocalEngine
from yearling.serving.beams import MOST_BEAMS
from yearling.serving.engine import Engine, EngineConfig
from yearling.wire.openai.beams import Beams
from yearling.wire.openai.completions import parse_completion_request

PROMPT = "The capital of France is"
MODEL = "SmolLM2-135M-Instruct.Q4_1"


@pytest.fixture(scope="module")
def llm(smollm2_path: Path) -> Iterator[LLM]:
    with LLM(smollm2_path) as model:
        yield model


@pytest.mark.slow
@pytest.mark.parametrize("length_penalty", [0.0, 2.0])
def test_answers_are_those_of_the_library(
    smollm2_server: LiveServer, llm: LLM, length_penalty: float
) -> None:
    with openai.OpenAI(base_url=smollm2_server.url + "/v1", api_key="any") as client:
        answer = client.completions.create(
            model=MODEL,
            prompt=[PROMPT, "Once upon a time"],
            n=3,
            max_tokens=8,
            extra_body={"use_beam_search": True, "length_penalty": length_penalty},
        )
    expected = [
        beam
        for prompt in (PROMPT, "Once upon a time")
        for beam in llm.beam_search(prompt, width=3, max_tokens=8, length_penalty=length_penalty)
    ]
    assert [choice.text for choice in answer.choices] == [beam.text for beam in expected]
    assert [choice.finish_reason for choice in answer.choices] == [
        beam.finish_reason for beam in expected
    ]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == sum(len(beam.tokens) for beam in expected)


@pytest.mark.slow
def test_conversation_is_answered_up_to_the_end_of_a_turn(
    smollm2_server: LiveServer, llm: LLM
) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "use_beam_search": True,
        "n": 2,
    }
    status, answer = smollm2_server.json("/v1/chat/completions", body)
    assert status == 200
    assert all("Paris" in choice["message"]["content"] for choice in answer["choices"])
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"stop"}
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert len(set(texts)) == 2
    assert not any("<|im" in text for text in texts)


def test_each_prompt_has_a_search_of_its_own(server: LiveServer) -> None:
    body = {
        "model": "reciter",
        "prompt": ["A", "B"],
        "n": 2,
        "max_tokens": 1,
        "echo": False,
        "use_beam_search": True,
        "temperature": 0,
    }
    status, answer = server.json("/v1/completions", body)
    assert status == 200
    first = ANSWER[0]
    assert [choice["text"] for choice in answer["choices"]] == [first, chr(ord(first) + 1)] * 2
    assert answer["usage"]["prompt_tokens"] == 2


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"stream": True}, "stream"),
        ({"stop": "x"}, "stop"),
        ({"seed": 1}, "seed"),
        ({"logprobs": 1}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"logprobs": 0}, "logprobs"),
        ({"length_penalty": 11}, "length_penalty"),
        ({"use_beam_search": False, "length_penalty": 1}, "length_penalty"),
    ],
)
def test_what_a_search_cannot_do_is_refused(
    server: LiveServer, fields: dict[str, Any], parameter: str
) -> None:
    body = {"model": "reciter", "prompt": "A", "use_beam_search": True} | fields
    status, answer = server.json("/v1/completions", body)
    assert status == 400
    assert answer["error"]["param"] == parameter


def test_a_search_is_no_wider_than_it_can_be() -> None:
    limits = replace(Limits().for_requests(), choices=20)
    body = {"model": "m", "prompt": "a", "use_beam_search": True, "n": MOST_BEAMS}
    assert parse_completion_request(body, limits).beams == Beams(MOST_BEAMS, 1.0)
    with pytest.raises(RequestError, match="keeps at most 10"):
        parse_completion_request(body | {"n": MOST_BEAMS + 1}, limits)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"reads_prompts_apart": True}, "draw several"), ({"chat_stop": ("###",)}, "by a text")],
)
def test_models_that_cannot_be_searched_say_why(change: dict[str, Any], words: str) -> None:
    model = replace(served_model(), **change)
    body = {
        "model": "reciter",
        "messages": [{"role": "user", "content": "a"}],
        "use_beam_search": True,
    }
    with running_server(models=[model]) as live:
        status, answer = live.json("/v1/chat/completions", body)
    assert (status, answer["error"]["param"]) == (400, "use_beam_search")
    assert words in answer["error"]["message"]


def test_a_full_queue_delays_a_search_that_has_begun() -> None:
    """The engine takes four requests; two searches of three answers each do not fit at once."""
    engine = Engine(
        RecitingExecutor(),
        ByteTokenizer(),
        context=2048,
        eos_token_ids=[END],
        config=EngineConfig(max_sequences=2, max_waiting=2),
        vocabulary=ByteTokenizer.vocabulary_size,
    )
    body = {"model": "reciter", "use_beam_search": True, "max_tokens": 6, "n": 3}
    with running_server(models=[served_model(LocalEngine(engine))]) as live:
        status, answer = live.json("/v1/completions", body | {"prompt": ["A", "B"]})
    assert status == 200
    assert len(answer["choices"]) == 6


def test_search_ends_when_its_client_leaves() -> None:
    body = {"model": "reciter", "prompt": "A", "use_beam_search": True, "max_tokens": 1000, "n": 3}
    content = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(content)}\r\n"
    head += "Content-Type: application/json\r\n\r\n"
    with running_server(delay_seconds=0.02) as live:
        assert live.service is not None
        engine = next(iter(live.service.models)).engine
        with live.connect() as connection:
            connection.sendall(head.encode() + content)
            _wait_until(lambda: engine.stats().generated_tokens > 3)
        _wait_until(lambda: live.service.num_open_requests == 0)  # type: ignore[union-attr]
        time.sleep(0.2)
        steps = engine.stats().num_steps
        time.sleep(0.2)
        assert engine.stats().num_steps == steps


def _wait_until(is_true: Any) -> None:
    deadline = time.monotonic() + 10
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
