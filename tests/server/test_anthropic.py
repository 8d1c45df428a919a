"""Anthropic's API over the reciting model, through Anthropic's own client."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anthropic
import pytest
from anthropic.types import ModelInfo

from tests.server.fake_model import ANSWER, CONTEXT, served_encoder, served_model
from tests.server.live import LiveServer, running_server

MODEL = "reciter"
SAID: list[Any] = [{"role": "user", "content": "Say something of herons, and say it slowly."}]
ADD = {"name": "add", "description": "Add.", "input_schema": {"type": "object"}}
CALL = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2"}
CALLED = [
    *SAID,
    {"role": "assistant", "content": [CALL]},
    {"role": "user", "content": [RESULT, {"type": "text", "text": "And now?"}]},
]


@pytest.fixture
def claude(server: LiveServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0) as client:
        yield client


# --- Counting ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": SAID},
        {"messages": SAID, "system": [{"type": "text", "text": "Be brief."}]},
        {"messages": SAID, "tools": [ADD]},
        {"messages": SAID, "tools": [ADD], "tool_choice": {"type": "none"}},
        {"messages": CALLED, "tools": [ADD], "system": "Be brief."},
    ],
    ids=["text", "system", "tools", "no tool", "results"],
)
def test_count_is_the_whole_input_that_a_message_reports(
    claude: anthropic.Anthropic, fields: dict[str, Any]
) -> None:
    counted = claude.messages.count_tokens(model=MODEL, **fields).input_tokens
    for _ in range(2):  # the second time out of the cache
        answer = claude.messages.create(model=MODEL, max_tokens=1, **fields)
        used = answer.usage.input_tokens + answer.usage.cache_read_input_tokens
        assert used == counted > 40
    assert answer.usage.cache_read_input_tokens > 0


def test_count_grows_with_what_is_said_beyond_the_context_too(claude: anthropic.Anthropic) -> None:
    def counted(text: str) -> int:
        messages: list[Any] = [{"role": "user", "content": text}]
        return claude.messages.count_tokens(model=MODEL, messages=messages).input_tokens

    assert counted("x" * 2 * CONTEXT) - counted("x") == 2 * CONTEXT - 1


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        ({"model": "other"}, anthropic.NotFoundError, "'other' is not served"),
        ({"extra_body": {"max_tokens": 5}}, anthropic.BadRequestError, "max_tokens is not a field"),
        ({"extra_body": {"mood": 1}}, anthropic.BadRequestError, "mood is not a field"),
        ({"speed": "fast"}, anthropic.BadRequestError, "speed is not supported"),
        ({"messages": [{"role": "assistant", "content": "I"}]}, anthropic.BadRequestError,
         r"messages\[0\]: the last turn must be the user's"),
    ],
)  # fmt: skip
def test_what_cannot_be_counted_is_refused_by_name(
    claude: anthropic.Anthropic, change: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        claude.messages.count_tokens(**{"model": MODEL, "messages": SAID} | change)
    assert caught.value.body["type"] == "error"  # type: ignore[attr-defined]


# --- Models ------------------------------------------------------------------------------------


def test_models_are_listed_for_its_client() -> None:
    with (
        running_server(models=[served_model(), served_encoder()]) as live,
        anthropic.Anthropic(base_url=live.url, api_key="any", max_retries=0) as client,
    ):
        page = client.models.list()
        assert [model.id for model in client.models.list()] == [MODEL, "encoder"]
        assert (page.has_more, page.first_id, page.last_id) == (False, MODEL, "encoder")
        model = client.models.retrieve(MODEL)
        assert model == page.data[0]
        assert ModelInfo.model_validate(model.model_dump()).created_at.year > 2020
        assert (model.type, model.display_name, model.max_input_tokens) == ("model", MODEL, CONTEXT)


def test_model_that_is_not_there_is_an_error_of_this_api_for_its_client_alone(
    claude: anthropic.Anthropic, server: LiveServer
) -> None:
    with pytest.raises(anthropic.NotFoundError, match="'org/other' is not served") as caught:
        claude.models.retrieve("org/other")
    assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index]
    _, _, content = server.request("GET", "/v1/models/org/other")
    assert json.loads(content)["error"]["code"] == "model_not_found"


# --- Tools -------------------------------------------------------------------------------------


def test_tool_may_have_a_name_of_128_characters(claude: anthropic.Anthropic) -> None:
    name = "a-Z_9" * 25 + "end"
    given: Any = {"model": MODEL, "messages": SAID, "tools": [{**ADD, "name": name}]}
    assert claude.messages.count_tokens(**given, tool_choice={"type": "tool", "name": name})
    other: Any = {"type": "tool", "name": name[:-1]}
    with pytest.raises(anthropic.BadRequestError, match=f"names '{name[:-1]}'; the tools are"):
        claude.messages.count_tokens(**given, tool_choice=other)


@pytest.mark.parametrize("name", ["a" * 129, "", "a b", "add\n", "größe"])
def test_name_of_a_tool_that_is_none_is_refused_where_it_stands(
    claude: anthropic.Anthropic, name: str
) -> None:
    tools: Any = [ADD, {**ADD, "name": name}]
    with pytest.raises(anthropic.BadRequestError, match=r"'message': .tools\[1\].name is "):
        claude.messages.create(model=MODEL, max_tokens=1, messages=SAID, tools=tools)


def test_limit_of_openai_stays_where_its_api_is(server: LiveServer) -> None:
    function = {"name": "a" * 65, "parameters": {"type": "object"}}
    said = {"model": MODEL, "messages": SAID, "max_tokens": 1}
    tools: list[Any] = [{"type": "function", "function": function}]
    status, body = server.json("/v1/chat/completions", said | {"tools": tools})
    assert (status, body["error"]["param"]) == (400, "tools[0].function.name")


# --- Ends --------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stops", "stop"), [(["waits", "w"], "w"), (["ts —", "s —"], "ts —"), (["end>"], None)]
)
def test_stop_sequence_is_the_one_that_the_text_ends_before(
    claude: anthropic.Anthropic, stops: list[str], stop: str | None, stream: bool
) -> None:
    """The last is within the name of the control token that ends the answer, which says nothing."""
    given: Any = {"model": MODEL, "max_tokens": 200, "messages": SAID, "stop_sequences": stops}
    if stream:
        with claude.messages.stream(**given) as events:
            answer: anthropic.types.Message = events.get_final_message()
    else:
        answer = claude.messages.create(**given)
    assert answer.stop_sequence == stop
    assert answer.stop_reason == ("end_turn" if stop is None else "stop_sequence")
    text = "".join(block.text for block in answer.content if block.type == "text")
    assert text == (ANSWER if stop is None else ANSWER[: ANSWER.index(stop)])


def test_text_that_ends_every_answer_of_a_model_is_no_stop_sequence() -> None:
    model = replace(served_model(), chat_stop=("waits",))
    with (
        running_server(models=[model]) as live,
        anthropic.Anthropic(base_url=live.url, api_key="any", max_retries=0) as client,
    ):
        answer = client.messages.create(
            model=MODEL, max_tokens=90, messages=SAID, stop_sequences=["its", "never"]
        )
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)


# --- Usage and headers -------------------------------------------------------------------------


def test_start_and_end_of_a_stream_tell_the_same_input(claude: anthropic.Anthropic) -> None:
    given: Any = {"model": MODEL, "max_tokens": 3, "messages": SAID}
    whole = claude.messages.create(**given).usage
    for _ in range(2):  # the second time certainly out of the cache
        events = list(claude.messages.create(**given, stream=True))
        start: Any = events[0]
        end: Any = events[-2]
        assert (start.type, end.type) == ("message_start", "message_delta")
        names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        told = [getattr(start.message.usage, name) for name in names]
        assert told == [getattr(end.usage, name) for name in names]
        assert told[0] + told[2] == whole.input_tokens + whole.cache_read_input_tokens
        assert (start.message.usage.output_tokens, end.usage.output_tokens) == (0, 3)


def test_request_id_is_where_its_client_reads_it(claude: anthropic.Anthropic) -> None:
    given: Any = {"model": MODEL, "max_tokens": 1, "messages": SAID}
    answer = claude.messages.create(**given, extra_headers={"x-request-id": "ours-1"})
    assert answer._request_id == "ours-1"
    with pytest.raises(anthropic.NotFoundError) as caught:
        claude.messages.create(**given | {"model": "other"})
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert caught.value.request_id
