"""Anthropic's and Ollama's APIs with the embedded model, each through its own stock client."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import ollama
import pytest

from tests.server.live import LiveServer, started

pytestmark = pytest.mark.slow

MODEL = "SmolLM2-135M-Instruct.Q4_1"
SAID = [{"role": "user", "content": "Name three colours."}]
GREEDY = {"temperature": 0}
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
KEY = "a-key-of-this-test"


@pytest.fixture(scope="module")
def server(smollm2_path: Path) -> Iterator[LiveServer]:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    with started([*command, "--model", str(smollm2_path), "--api-key", KEY], seconds=60) as live:
        yield live


@pytest.fixture
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def llama(server: LiveServer) -> Iterator[ollama.Client]:
    with ollama.Client(host=server.url, headers={"Authorization": f"Bearer {KEY}"}) as client:
        yield client


# --- Anthropic ---------------------------------------------------------------------------------

ADD: dict[str, Any] = {"name": "add", "description": "Add two numbers.", "input_schema": SCHEMA}


def test_message_has_text_reason_and_usage(claude: anthropic.Anthropic) -> None:
    answer = claude.messages.create(
        model=MODEL, max_tokens=200, messages=SAID, system="Be brief.", extra_body=GREEDY
    )
    (block,) = answer.content
    assert block.text.strip()
    assert (answer.role, answer.stop_reason, answer.model) == ("assistant", "end_turn", MODEL)
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens > 10
    assert answer.usage.output_tokens > 3


def test_streamed_message_put_together_is_the_whole_one(claude: anthropic.Anthropic) -> None:
    arguments: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 40,
        "messages": SAID,
        "extra_body": GREEDY,
    }
    whole = claude.messages.create(**arguments)
    with claude.messages.stream(**arguments) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == whole.usage.output_tokens


def test_reason_tells_what_ended_a_message(claude: anthropic.Anthropic) -> None:
    arguments: dict[str, Any] = {"model": MODEL, "messages": SAID, "extra_body": GREEDY}
    cut = claude.messages.create(max_tokens=12, **arguments)
    assert (cut.stop_reason, cut.stop_sequence) == ("max_tokens", None)
    said = cut.content[0].text
    middle = said[len(said) // 2 : len(said) // 2 + 4]
    stops = ["never said", middle]
    ended = claude.messages.create(max_tokens=60, stop_sequences=stops, **arguments)
    assert (ended.stop_reason, ended.stop_sequence) == ("stop_sequence", middle)
    assert ended.content[0].text == said[: said.index(middle)]
    first = said[0]
    stops = [said, said[:4], first]  # one token completes the last two
    ended = claude.messages.create(max_tokens=60, stop_sequences=stops, **arguments)
    assert (ended.stop_sequence, ended.content) == (first, [])


def test_tool_is_called_and_its_result_is_what_openais_api_would_show(
    claude: anthropic.Anthropic, server: LiveServer
) -> None:
    messages: list[Any] = [{"role": "user", "content": "Add 17 and 25."}]
    arguments: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": 60,
        "tools": [ADD],
        "extra_body": GREEDY,
    }
    forced = {"tool_choice": {"type": "tool", "name": "add"}}
    answer = claude.messages.create(messages=messages, **arguments, **forced)
    (call,) = answer.content
    assert (answer.stop_reason, call.type, call.name) == ("tool_use", "tool_use", "add")
    assert call.input == {"a": 17, "b": 25}
    with claude.messages.stream(messages=messages, **arguments, **forced) as stream:
        (streamed,) = stream.get_final_message().content
    assert streamed.input == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "42"}
    question = {"type": "text", "text": "Which number did the function add give back?"}
    messages += [
        {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
        {"role": "user", "content": [result, question]},
    ]
    last = claude.messages.create(messages=messages, **arguments, tool_choice={"type": "none"})
    function = {"name": "add", "arguments": json.dumps(call.input)}
    same = [
        {"role": "user", "content": "Add 17 and 25."},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": call.id, "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": call.id, "content": "42"},
        {"role": "user", "content": question["text"]},
    ]
    body = {"model": MODEL, "messages": same, "max_tokens": 60, **GREEDY}
    headers = {"x-api-key": KEY}
    status, _, content = server.request(
        "POST", "/v1/chat/completions", json.dumps(body).encode(), headers=headers
    )
    assert status == 200, content
    other = json.loads(content)
    assert last.content[0].text == other["choices"][0]["message"]["content"]
    used = last.usage.input_tokens + last.usage.cache_read_input_tokens
    assert used == other["usage"]["prompt_tokens"]


def test_tool_of_the_longest_name_is_counted_and_called(claude: anthropic.Anthropic) -> None:
    name = "add_" + "x" * 124
    given: Any = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Add 17 and 25."}],
        "tools": [{**ADD, "name": name}],
        "tool_choice": {"type": "tool", "name": name},
    }
    counted = claude.messages.count_tokens(**given).input_tokens
    answer = claude.messages.create(max_tokens=120, **given, extra_body=GREEDY)
    (call,) = answer.content
    assert (answer.stop_reason, call.name) == ("tool_use", name)
    assert answer.usage.input_tokens + answer.usage.cache_read_input_tokens == counted


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "other"}, anthropic.NotFoundError, "'other' is not served"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, anthropic.BadRequestError,
         "thinking is not supported"),
        ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
         anthropic.BadRequestError, r"messages\[0\].content\[0\].type"),
        ({"extra_body": {"tempratur": 1}}, anthropic.BadRequestError, "tempratur"),
        ({"stop_sequences": ["x"] * 17}, anthropic.BadRequestError, "stop_sequences"),
    ],
)  # fmt: skip
def test_errors_have_the_form_of_this_api(
    claude: anthropic.Anthropic, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    arguments = {"model": MODEL, "max_tokens": 8, "messages": SAID} | change
    with pytest.raises(kind, match=said) as caught:
        claude.messages.create(**arguments)
    body = caught.value.body  # type: ignore[attr-defined]
    assert body["type"] == "error"
    assert body["error"]["type"] in ("invalid_request_error", "not_found_error")


def test_wrong_key_is_refused_in_the_form_of_this_api(server: LiveServer) -> None:
    with (
        anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0) as client,
        pytest.raises(anthropic.AuthenticationError) as caught,
    ):
        client.messages.create(model=MODEL, max_tokens=8, messages=SAID)
    assert caught.value.body["error"]["type"] == "authentication_error"


# --- Ollama ------------------------------------------------------------------------------------


def test_models_are_listed(llama: ollama.Client) -> None:
    assert [model.model for model in llama.list().models] == [MODEL]


def test_chat_answers_whole_and_in_lines(llama: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 300}
    whole = llama.chat(MODEL, SAID, options=options)
    assert whole.message.content
    assert (whole.done, whole.done_reason) == (True, "stop")
    assert whole.eval_count > 3
    assert whole.total_duration >= whole.eval_duration > 0
    lines = list(llama.chat(f"{MODEL}:latest", SAID, options=options, stream=True))
    assert "".join(line.message.content or "" for line in lines) == whole.message.content
    assert [line.done for line in lines] == [False] * (len(lines) - 1) + [True]
    assert len(lines) > 3


def test_generate_is_a_chat_of_one_turn(llama: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 300}
    answer = llama.generate(MODEL, SAID[0]["content"], options=options)
    assert answer.response == llama.chat(MODEL, SAID, options=options).message.content
    assert answer.done_reason == "stop"
    cut = llama.generate(MODEL, "Count.", options={"num_predict": 2, "temperature": 0})
    assert cut.done_reason == "length"


def test_format_holds_an_answer_to_a_schema(llama: ollama.Client) -> None:
    answer = llama.chat(
        MODEL,
        [{"role": "user", "content": "a is 3 and b is 4."}],
        format=SCHEMA,
        options={"temperature": 0},
    )
    assert json.loads(answer.message.content or "") == {"a": 3, "b": 4}
    loose = llama.generate(MODEL, "Describe a cat.", format="json", options={"num_predict": 200})
    if loose.done_reason == "stop":
        assert isinstance(json.loads(loose.response), dict)


def test_tools_and_calls_of_earlier_turns_are_taken(llama: ollama.Client) -> None:
    tool = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}
    call = {"function": {"name": "add", "arguments": {"a": 17, "b": 25}}}
    said = [
        {"role": "user", "content": "Add 17 and 25."},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "add", "content": "42"},
        {"role": "user", "content": "Which number did the function add give back?"},
    ]
    options = {"temperature": 0, "num_predict": 60}
    answer = llama.chat(MODEL, said, tools=[tool], options=options)
    assert answer.message.tool_calls or "42" in (answer.message.content or "")
    lines = list(llama.chat(MODEL, said, tools=[tool], options=options, stream=True))
    calls = [call for line in lines for call in line.message.tool_calls or []]
    assert (calls or None) == answer.message.tool_calls
    assert "".join(line.message.content or "" for line in lines) == answer.message.content


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.chat("other", SAID), "'other' is not served"),
        (lambda c: c.chat(MODEL, SAID, options={"mirostat": 2}), "options.*mirostat"),
        (lambda c: c.chat(MODEL, SAID, options={"num_ctx": 1 << 20}), "num_ctx"),
        (lambda c: c.chat(MODEL, SAID, think=True), "think is not supported"),
        (lambda c: c.generate(MODEL, "x", raw=True), "raw is not supported"),
        (lambda c: c.generate(MODEL, "x", format={"type": "strange"}), "format is no guide"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(llama: ollama.Client, call: Any, said: str) -> None:
    with pytest.raises(ollama.ResponseError, match=said):
        call(llama)
