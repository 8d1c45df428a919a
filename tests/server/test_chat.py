"""Chat completions through the stock client."""

import json

import openai
import pytest

from tests.server.fake_model import ANSWER
from tests.server.live import LiveServer

QUESTION = [{"role": "user", "content": "Who waits?"}]


@pytest.fixture
def client(server: LiveServer):
    with openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0) as client:
        yield client


def test_chat_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="reciter", messages=QUESTION)
    choice = answer.choices[0]
    assert choice.message.content == ANSWER
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.system_fingerprint == "fp_test"
    assert answer.usage is not None
    num_prompt = len(b"user\nWho waits?") + 2
    assert answer.usage.prompt_tokens == num_prompt
    assert answer.usage.completion_tokens == len(ANSWER.encode()) + 1
    assert answer.usage.total_tokens == num_prompt + len(ANSWER.encode()) + 1


def test_chat_max_tokens_ends_with_length(client: openai.OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = client.chat.completions.create(model="reciter", messages=QUESTION, **{name: 3})
        assert answer.choices[0].message.content == ANSWER[:3]
        assert answer.choices[0].finish_reason == "length"


def test_chat_stop_string_cuts_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="reciter", messages=QUESTION, stop="waits")
    assert answer.choices[0].message.content == ANSWER.partition("waits")[0]
    assert answer.choices[0].finish_reason == "stop"


def test_chat_n_gives_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="reciter", messages=QUESTION, n=3, seed=1)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(b"user\nWho waits?") + 2
    assert answer.usage.completion_tokens == 3 * (len(ANSWER.encode()) + 1)


def test_chat_logprobs_spell_the_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="reciter", messages=QUESTION, logprobs=True, top_logprobs=2
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    assert bytes(byte for entry in content for byte in entry.bytes or []) == ANSWER.encode()
    assert all(len(entry.top_logprobs) == 2 and entry.logprob == -0.5 for entry in content)


def test_chat_repeated_prompt_reports_cached_tokens(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "repeat " * 40}]
    client.chat.completions.create(model="reciter", messages=long, max_tokens=1)
    answer = client.chat.completions.create(model="reciter", messages=long, max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.cached_tokens or 0) > 200


def test_chat_prompt_cache_key_parts_the_cache(client: openai.OpenAI) -> None:
    long = [{"role": "user", "content": "partition " * 40}]

    def cached(key: str) -> int:
        answer = client.chat.completions.create(
            model="reciter", messages=long, max_tokens=1, prompt_cache_key=key
        )
        assert answer.usage is not None
        assert answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens or 0

    assert [cached("a") > 0, cached("a") > 0, cached("b") > 0] == [False, True, False]


def _stream(server: LiveServer, **more: object) -> tuple[list[dict], list[str]]:
    """The chunks of a stream, and its raw data lines."""
    body = {"model": "reciter", "messages": QUESTION, "stream": True, **more}
    status, headers, content = server.request(
        "POST", "/v1/chat/completions", json.dumps(body).encode()
    )
    assert status == 200, content
    assert headers["content-type"].startswith("text/event-stream")
    events = content.decode().split("\n\n")
    assert events.pop() == ""
    assert all(event.startswith("data: ") and "\n" not in event for event in events)
    lines = [event.removeprefix("data: ") for event in events]
    return [json.loads(line) for line in lines if line != "[DONE]"], lines


CHUNK_KEYS = {"id", "object", "created", "model", "system_fingerprint", "choices"}


def test_stream_is_framed_as_openai_frames_it(server: LiveServer) -> None:
    chunks, lines = _stream(server)
    assert lines[-1] == "[DONE]"
    assert lines.count("[DONE]") == 1
    assert all(set(chunk) == CHUNK_KEYS for chunk in chunks)
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" for chunk in chunks)
    choices = [chunk["choices"][0] for chunk in chunks]
    assert all(set(choice) == {"index", "delta", "logprobs", "finish_reason"} for choice in choices)
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert all(set(choice["delta"]) == {"content"} for choice in choices[1:-1])
    assert all(choice["finish_reason"] is None for choice in choices[:-1])
    assert choices[-1]["delta"] == {}
    assert choices[-1]["finish_reason"] == "stop"
    assert "".join(choice["delta"].get("content", "") for choice in choices) == ANSWER


def test_stream_usage_comes_last_and_is_null_before(server: LiveServer) -> None:
    chunks, _ = _stream(server, stream_options={"include_usage": True}, max_tokens=4)
    assert all(set(chunk) == CHUNK_KEYS | {"usage"} for chunk in chunks)
    assert all(chunk["usage"] is None for chunk in chunks[:-1])
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == 4


def test_stream_put_together_is_the_whole_answer(client: openai.OpenAI) -> None:
    arguments = {"model": "reciter", "messages": QUESTION, "n": 2, "logprobs": True}
    whole = client.chat.completions.create(**arguments)
    texts, logprobs = ["", ""], [[], []]
    for chunk in client.chat.completions.create(**arguments, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.logprobs is not None:
                logprobs[choice.index] += choice.logprobs.content
    for choice in whole.choices:
        assert choice.message.content == texts[choice.index]
        assert choice.logprobs.content == logprobs[choice.index]


def test_stream_of_the_client_parses(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="reciter", messages=QUESTION) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == ANSWER


def test_chat_too_long_says_how_much_fits(client: openai.OpenAI) -> None:
    for content in ("x" * 2048, "x" * 20_000):
        with pytest.raises(openai.BadRequestError, match="context window") as caught:
            client.chat.completions.create(
                model="reciter", messages=[{"role": "user", "content": content}]
            )
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"


def test_chat_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="there is reciter") as caught:
        client.chat.completions.create(model="gpt-9", messages=QUESTION)
    assert caught.value.code == "model_not_found"


def test_chat_refused_by_template_is_a_bad_request(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="must not start with the assistant"):
        client.chat.completions.create(
            model="reciter", messages=[{"role": "assistant", "content": "Me first"}]
        )


def test_chat_wrong_ids_are_refused(client: openai.OpenAI) -> None:
    for name, value in (("logit_bias", {"258": 1}), ("stop_token_ids", [258])):
        with pytest.raises(openai.BadRequestError, match="258") as caught:
            client.chat.completions.create(
                model="reciter", messages=QUESTION, extra_body={name: value}
            )
        assert caught.value.param == name


def test_guide_beyond_the_limit_is_refused_by_name(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="65536 is the limit") as caught:
        client.chat.completions.create(
            model="reciter", messages=QUESTION, extra_body={"guided_regex": "a" * 70_000}
        )
    assert caught.value.param == "guided_regex"
