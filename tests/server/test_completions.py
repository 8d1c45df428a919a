"""Completions and scoring through the stock client."""

import json

import openai
import pytest

from tests.server.fake_model import ANSWER
from tests.server.live import LiveServer


@pytest.fixture
def client(server: LiveServer):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def test_completion_answers_every_form_of_prompt(client: openai.OpenAI) -> None:
    for prompt in ("Hi", ["Hi", "Ho"], [72, 105], [[72, 105], [72, 111]]):
        answer = client.completions.create(model="reciter", prompt=prompt, max_tokens=5)
        is_several = isinstance(prompt, list) and not isinstance(prompt[0], int)
        assert [choice.text for choice in answer.choices] == [ANSWER[:5]] * (1 + is_several)
        assert [choice.index for choice in answer.choices] == list(range(1 + is_several))
        assert answer.usage is not None
        assert answer.usage.prompt_tokens == 2 * (1 + is_several)
        assert answer.choices[0].finish_reason == "length"


def test_completion_without_max_tokens_has_sixteen(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="reciter", prompt="Hi")
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_choices_of_prompts_are_numbered_prompt_by_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="reciter", prompt=["A", "B"], n=2, max_tokens=3, echo=True
    )
    assert [choice.text[0] for choice in answer.choices] == ["A", "A", "B", "B"]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


def test_scoring_gives_a_logprob_per_prompt_token(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="reciter", prompt="Hello", max_tokens=0, echo=True, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.text == "Hello"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list("Hello")
    assert choice.logprobs.token_logprobs == [None, -0.5, -0.5, -0.5, -0.5]
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert choice.logprobs.top_logprobs is not None
    assert choice.logprobs.top_logprobs[0] is None
    assert choice.logprobs.top_logprobs[1] == {"e": -0.5, "f": -2.0}
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_harness_reads_prompt_scores_beside_one_new_token(server: LiveServer) -> None:
    """The request that evaluation harnesses send: ids, echo, one token, logprobs 1."""
    body = {"model": "reciter", "prompt": [[72, 101, 108], [72, 105]], "temperature": 0}
    body |= {"max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
    status, answer = server.json("/v1/completions", body)
    assert status == 200, answer
    for choice, num_prompt in zip(answer["choices"], (3, 2), strict=True):
        logprobs = choice["logprobs"]
        lengths = {len(values) for values in logprobs.values()}
        assert lengths == {num_prompt + 1}
        assert logprobs["token_logprobs"][0] is None
        assert all(max(top, key=top.get) for top in logprobs["top_logprobs"][1:])


def test_echo_without_logprobs_scores_nothing(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="reciter", prompt="Hello", max_tokens=0, echo=True)
    assert answer.choices[0].text == "Hello"
    assert answer.choices[0].logprobs is None


def test_stream_put_together_is_the_whole_answer(client: openai.OpenAI) -> None:
    arguments = {"model": "reciter", "prompt": ["A", "B"], "echo": True, "logprobs": 1}
    whole = client.completions.create(**arguments, max_tokens=9)
    texts, offsets, reasons = ["", ""], [[], []], ["", ""]
    for chunk in client.completions.create(**arguments, max_tokens=9, stream=True):
        assert chunk.object == "text_completion"
        choice = chunk.choices[0]
        texts[choice.index] += choice.text
        reasons[choice.index] = choice.finish_reason
        if choice.logprobs is not None:
            offsets[choice.index] += choice.logprobs.text_offset
    assert texts == [choice.text for choice in whole.choices]
    assert offsets == [choice.logprobs.text_offset for choice in whole.choices]
    assert reasons == ["length", "length"]


def test_stream_ends_with_usage_and_done(server: LiveServer) -> None:
    body = {"model": "reciter", "prompt": "A", "stream": True, "max_tokens": 2}
    body["stream_options"] = {"include_usage": True}
    _, _, content = server.request("POST", "/v1/completions", json.dumps(body).encode())
    lines = content.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    last = json.loads(lines[-3].removeprefix("data: "))
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 3


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 2048}, "prompt"),
        ({"prompt": "x" * 20_000}, "prompt"),
        ({"prompt": [258]}, "prompt"),
        ({"prompt": "x", "max_tokens": 2048}, "prompt"),
        ({"prompt": "x", "max_tokens": 10**15}, "prompt"),
        ({"prompt": "x", "suffix": "y"}, "suffix"),
    ],
)
def test_wrong_request_is_refused(server: LiveServer, fields: dict, parameter: str) -> None:
    status, answer = server.json("/v1/completions", {"model": "reciter"} | fields)
    assert status == 400
    assert answer["error"]["param"] == parameter


def test_scoring_may_fill_the_whole_context(server: LiveServer) -> None:
    body = {"model": "reciter", "max_tokens": 0, "echo": True, "prompt": "x" * 2048}
    assert server.json("/v1/completions", body)[0] == 200
    assert server.json("/v1/completions", body | {"prompt": "x" * 2049})[0] == 400
