"""`/v1/responses` through OpenAI's own client: over a model that recites, and over SmolLM2."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field, SecretStr

from tests.server.fake_model import ANSWER, CONTEXT
from tests.server.live import LiveServer, running_server, started
from yearling.core.messages import ContentPart, Message, ToolCall
from yearling.models.tool_turns import CALL_START
from yearling.server.config import ServerConfig
from yearling.server.errors import HttpError
from yearling.server.limits import Limits
from yearling.server.response_store import KeptResponse, ResponseStore
from yearling.serving.request import OutputEvent, Usage
from yearling.wire.openai.response_answers import ResponseFold

MODEL = "SmolLM2-135M-Instruct.Q4_1"
SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
ADD: dict[str, Any] = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": SCHEMA,
    "strict": True,
}


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# --- the form ------------------------------------------------------------------------------------


def test_input_that_the_template_refuses_is_named(server: LiveServer) -> None:
    body = {"model": "reciter", "input": [{"role": "assistant", "content": "Me first"}]}
    status, answer = server.json("/v1/responses", body)
    assert (status, answer["error"]["param"]) == (400, "input")
    assert answer["error"]["code"] == "template_error"


def test_tokens_are_counted_as_a_response_counts_them(client: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "reciter", "input": "Hi", "instructions": "Recite."}
    first = client.responses.create(**asked)
    assert first.usage is not None
    assert client.responses.input_tokens.count(**asked).input_tokens == first.usage.input_tokens
    asked["previous_response_id"] = first.id
    second = client.responses.create(**asked)
    assert second.usage is not None
    assert client.responses.input_tokens.count(**asked).input_tokens == second.usage.input_tokens
    assert second.usage.input_tokens > first.usage.input_tokens


def test_tokens_of_what_is_too_long_are_counted(client: openai.OpenAI) -> None:
    words = "word " * CONTEXT
    counted = client.responses.input_tokens.count(model="reciter", input=words)
    assert counted.input_tokens > CONTEXT


def test_top_p_of_nothing_is_greedy(client: openai.OpenAI) -> None:
    response = client.responses.create(model="reciter", input="Hi", top_p=0, max_output_tokens=16)
    assert (response.top_p, response.output_text) == (0, ANSWER.encode()[:16].decode())


def test_response_has_text_status_and_usage(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="reciter", input="Hi", instructions="Recite.", metadata={"for": "a test"}
    )
    assert response.output_text == ANSWER
    (item,) = response.output
    assert (item.type, item.role, item.status) == ("message", "assistant", "completed")
    assert (response.status, response.incomplete_details, response.error) == (
        "completed",
        None,
        None,
    )
    assert response.instructions == "Recite."
    assert response.metadata == {"for": "a test"}
    assert response.usage is not None
    # "<turn>system\nRecite.", "<turn>user\nHi", "<turn>"
    assert response.usage.input_tokens == 1 + 14 + 1 + 7 + 1
    assert response.usage.output_tokens == len(ANSWER.encode()) + 1
    assert response.usage.total_tokens == 24 + response.usage.output_tokens


def test_cut_response_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(model="reciter", input="Hi", max_output_tokens=3)
    assert (response.status, response.output_text) == ("incomplete", "The")
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    with client.responses.stream(model="reciter", input="Hi", max_output_tokens=3) as stream:
        kinds = [event.type for event in stream]
    assert kinds[-1] == "response.incomplete"


def test_stream_is_framed_as_openai_frames_it(server: LiveServer) -> None:
    body = {"model": "reciter", "input": "Hi", "stream": True}
    _, headers, content = server.request("POST", "/v1/responses", json.dumps(body).encode())
    assert headers["content-type"].startswith("text/event-stream")
    events = []
    for block in content.decode().removesuffix("\n\n").split("\n\n"):
        named, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert named == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert "".join(deltas) == ANSWER == events[-4]["text"]


def test_streamed_response_put_together_is_the_whole_one(client: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {
        "model": "reciter",
        "input": "Hi",
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    whole = client.responses.create(**arguments)
    with client.responses.stream(**arguments) as stream:
        final = stream.get_final_response()
    (part,), (streamed,) = whole.output[0].content, final.output[0].content
    assert part.text == streamed.text == ANSWER
    assert part.logprobs == streamed.logprobs
    assert bytes(byte for entry in part.logprobs for byte in entry.bytes).decode() == ANSWER
    assert {len(entry.top_logprobs) for entry in part.logprobs} == {2}


def test_response_goes_on_from_an_earlier_one(client: openai.OpenAI) -> None:
    first = client.responses.create(model="reciter", input="Hi", instructions="Recite.")
    again = client.responses.create(
        model="reciter", input="More", previous_response_id=first.id, instructions="Sing."
    )
    same = client.responses.create(
        model="reciter",
        instructions="Sing.",
        input=[
            {"role": "user", "content": "Hi"},
            *(item.model_dump(exclude_none=True) for item in first.output),
            {"role": "user", "content": [{"type": "input_text", "text": "More"}]},
        ],
    )
    assert again.previous_response_id == first.id
    assert again.usage.input_tokens == same.usage.input_tokens
    third = client.responses.create(model="reciter", input="?", previous_response_id=again.id)
    said = "system\nSing.", "user\nHi", f"assistant\n{ANSWER}", "user\nMore"
    assert again.usage.input_tokens == sum(len(turn.encode()) + 1 for turn in said) + 1
    said = (*said[1:], f"assistant\n{ANSWER}", "user\n?")
    assert third.usage.input_tokens == sum(len(turn.encode()) + 1 for turn in said) + 1


def test_response_is_kept_shown_and_forgotten(client: openai.OpenAI) -> None:
    with client.responses.stream(model="reciter", input="Hi") as stream:
        made = stream.get_final_response()
    assert client.responses.retrieve(made.id).output_text == ANSWER
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError, match="There is no response"):
        client.responses.retrieve(made.id)
    unkept = client.responses.create(model="reciter", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError) as caught:
        client.responses.create(model="reciter", input="Hi", previous_response_id=unkept.id)
    assert caught.value.param == "previous_response_id"


def test_response_is_found_by_its_own_account_alone() -> None:
    keys = (SecretStr("first-key"), SecretStr("second-key"))
    with running_server(ServerConfig(port=0, api_keys=keys)) as live:
        clients = [
            openai.OpenAI(base_url=f"{live.url}/v1", api_key=key, max_retries=0)
            for key in ("first-key", "second-key")
        ]
        made = clients[0].responses.create(model="reciter", input="Hi")
        assert clients[0].responses.retrieve(made.id).id == made.id
        for attempt in (
            lambda: clients[1].responses.retrieve(made.id),
            lambda: clients[1].responses.delete(made.id),
            lambda: clients[1].responses.create(
                model="reciter", input="Hi", previous_response_id=made.id
            ),
        ):
            with pytest.raises(openai.NotFoundError):
                attempt()


def test_failure_in_a_stream_is_told_in_it() -> None:
    with running_server(fail_on_call=5) as live:
        body = {"model": "reciter", "input": "Hi", "stream": True}
        _, _, content = live.request("POST", "/v1/responses", json.dumps(body).encode())
    last = content.decode().removesuffix("\n\n").split("\n\n")[-1]
    event = json.loads(last.split("data: ")[1])
    assert event["type"] == "response.failed"
    assert (event["response"]["status"], event["response"]["error"]["code"]) == (
        "failed",
        "server_error",
    )


def _has(store: ResponseStore, account: str, response_id: str) -> bool:
    try:
        store.get(account, response_id)
    except HttpError:
        return False
    return True


def test_oldest_response_of_the_largest_account_goes_first() -> None:
    store = ResponseStore(Limits(kept_responses=3))
    store.put("quiet", "first", KeptResponse(b"{}", ()))
    for name in ("a", "b", "c"):
        store.put("loud", name, KeptResponse(b"{}", ()))
    assert [_has(store, "loud", name) for name in ("a", "b", "c")] == [False, True, True]
    assert _has(store, "quiet", "first")


@pytest.mark.parametrize(
    "turn",
    [
        Message("user", (ContentPart("x" * 600),)),
        Message("assistant", tool_calls=(ToolCall("1", "f", "{" + " " * 600 + "}"),)),
    ],
)
def test_all_that_is_kept_counts(turn: Message) -> None:
    store = ResponseStore(Limits(kept_response_bytes=1500))
    store.put("", "a", KeptResponse(b"{}", (turn,)))
    store.put("", "b", KeptResponse(b"{}", (turn,)))
    assert _has(store, "", "a")
    store.delete("", "a")
    store.put("", "c", KeptResponse(b"{}", (turn, turn)))  # goes on from what was deleted
    assert (_has(store, "", "b"), _has(store, "", "c")) == (False, True)


def test_cut_call_is_no_turn_to_go_on_from() -> None:
    turns: list[Message] = []
    fold = ResponseFold(
        "resp_1",
        model="m",
        created=5,
        echo={},
        token_texts=None,
        has_tools=True,
        on_done=lambda _, turn: turns.append(turn),
    )
    said = CALL_START + '{"name": "add", "arguments": {"a"'
    fold.add(0, OutputEvent("r", said, (1,), finish_reason="length", usage=Usage(2, 1)))
    body = fold.body()
    assert (body["status"], body["output"][0]["status"]) == ("incomplete", "incomplete")
    assert turns == [Message("assistant")]


# --- the model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> Iterator[openai.OpenAI]:
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    with (
        started([*command, "--model", str(smollm2_path)], seconds=60) as live,
        openai.OpenAI(base_url=f"{live.url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


class _Person(BaseModel):
    """Somebody."""

    name: str = Field(max_length=20)
    age: int


@pytest.mark.slow
def test_response_holds_to_a_pydantic_model(smollm2: openai.OpenAI) -> None:
    response = smollm2.responses.parse(
        model=MODEL, input="Invent a person.", text_format=_Person, temperature=0
    )
    assert isinstance(response.output_parsed, _Person)
    assert response.output_parsed.name


@pytest.mark.slow
def test_tools_are_called_and_their_results_taken(smollm2: openai.OpenAI) -> None:
    arguments: dict[str, Any] = {"model": MODEL, "tools": [ADD], "temperature": 0}
    forced: dict[str, Any] = {"tool_choice": {"type": "function", "name": "add"}}
    first = smollm2.responses.create(input="Add 17 and 25.", **arguments, **forced)
    (call,) = first.output
    assert (call.type, call.name, json.loads(call.arguments)) == (
        "function_call",
        "add",
        {"a": 17, "b": 25},
    )
    with smollm2.responses.stream(input="Add 17 and 25.", **arguments, **forced) as stream:
        events = list(stream)
        (streamed,) = stream.get_final_response().output
    assert streamed.arguments == call.arguments
    kind = "response.function_call_arguments.delta"
    assert "".join(e.delta for e in events if e.type == kind) == call.arguments
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "42"}
    question = {"role": "user", "content": "Which number did the function add give back?"}
    by_id = smollm2.responses.create(
        input=[result, question], previous_response_id=first.id, tool_choice="none", **arguments
    )
    by_items = smollm2.responses.create(
        input=[
            {"role": "user", "content": "Add 17 and 25."},
            call.model_dump(exclude_none=True),
            result,
            question,
        ],
        tool_choice="none",
        **arguments,
    )
    assert by_id.output_text == by_items.output_text
    assert by_id.usage.input_tokens == by_items.usage.input_tokens
