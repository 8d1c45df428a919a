"""Answers of Anthropic's and Ollama's APIs: streams put together are the whole, calls included."""

import json
import random
from typing import Any

import pytest

from yearling.core.errors import RequestError
from yearling.server.limits import Limits
from yearling.serving.detokenizer import Detokenizer
from yearling.serving.request import OutputEvent, Usage
from yearling.wire.anthropic.answers import MessageFold
from yearling.wire.anthropic.request import parse_messages_request
from yearling.wire.ollama.answers import OllamaFold
from yearling.wire.ollama.request import parse_chat

CALLS = (
    '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": [2]}}\n</tool_call>\n'
    '<tool_call>\n{"name": "clock", "arguments": {}}\n</tool_call>'
)
EXPECTED = [("add", {"a": 1, "b": [2]}), ("clock", {})]


def events(text: str, size: int, reason: Any = "stop") -> list[OutputEvent]:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    middle = [OutputEvent("r", piece, tuple(piece.encode())) for piece in pieces]
    return [*middle, OutputEvent("r", finish_reason=reason, usage=Usage(9, 5, 4))]


def message_fold(stops: tuple[str, ...] = ()) -> MessageFold:
    return MessageFold(
        "m",
        num_prompt=9,
        stops=stops,
        ends=stops,
        token_bytes=lambda token: bytes([token]),
        has_tools=True,
    )


def put_together(chunks: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Blocks as a client builds them of a stream."""
    blocks: list[list[Any]] = []
    is_open = False
    for chunk in chunks:
        if chunk["type"] == "content_block_start":
            assert not is_open
            assert chunk["index"] == len(blocks)
            blocks.append([chunk["content_block"], ""])
            is_open = True
        elif chunk["type"] == "content_block_delta":
            delta = chunk["delta"]
            blocks[chunk["index"]][1] += delta.get("text", "") + delta.get("partial_json", "")
        elif chunk["type"] == "content_block_stop":
            assert chunk["index"] == len(blocks) - 1
            is_open = False
    assert not is_open
    return [
        ("text", text) if block["type"] == "text" else (block["name"], json.loads(text))
        for block, text in blocks
    ]


QUESTION = {"model": "m", "messages": [{"role": "user", "content": "a"}]}


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"repeat_penalty": 99.0}, "options.repeat_penalty"),
        ({"temperature": 99.0}, "options.temperature"),
        ({"stop": [""]}, "options.stop[0]"),
    ],
)
def test_ollamas_options_are_refused_by_their_own_names(
    options: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat(QUESTION | {"options": options}, Limits().for_requests(), 100)
    assert caught.value.parameter == parameter
    assert str(caught.value).startswith(f"{parameter} is ")


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [({"stop_sequences": [""]}, "stop_sequences[0]"), ({"top_k": -1}, "top_k")],
)
def test_anthropics_fields_are_refused_by_their_own_names(
    fields: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_messages_request(QUESTION | {"max_tokens": 5} | fields, Limits().for_requests())
    assert caught.value.parameter == parameter
    assert str(caught.value).startswith(f"{parameter} is ")


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_message_is_blocks_of_text_and_calls(size: int) -> None:
    fold, whole = message_fold(), message_fold()
    chunks = [*fold.opening()]
    for event in events(f"One moment.\n{CALLS}", size):
        chunks += fold.event(0, event)
        whole.add(0, event)
    chunks += fold.closing()
    assert put_together(chunks) == [("text", "One moment."), *EXPECTED]
    body = whole.body()
    assert [
        ("text", b["text"]) if b["type"] == "text" else (b["name"], b["input"])
        for b in body["content"]
    ] == put_together(chunks)
    assert (chunks[0]["type"], chunks[-1]["type"]) == ("message_start", "message_stop")
    assert chunks[-2]["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert body["stop_reason"] == "tool_use"
    assert chunks[-2]["usage"] == body["usage"] | {"input_tokens": 9, "cache_read_input_tokens": 0}
    assert body["usage"] == {
        "input_tokens": 5,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 4,
        "output_tokens": 5,
    }


def test_message_names_the_first_text_that_ended_it() -> None:
    fold = message_fold(stops=("END", "DONE", "x"))
    for token in b"some DONE":
        fold.add(0, OutputEvent("r", tokens=(token,)))
    fold.add(0, OutputEvent("r", "some ", finish_reason="stop", usage=Usage(9, 5)))
    assert fold.body()["stop_sequence"] == "DONE"
    assert fold.body()["stop_reason"] == "stop_sequence"


def test_message_names_the_text_that_was_complete_first_where_one_token_completes_two() -> None:
    fold = message_fold(stops=("Hello", "H"))
    end = OutputEvent("r", tokens=tuple(b"Hello"), finish_reason="stop", usage=Usage(9, 1))
    fold.add(0, end)
    assert fold.body()["stop_sequence"] == "H"


@pytest.mark.parametrize("seed", range(50))
def test_message_names_the_text_that_the_detokenizer_ended_it_before(seed: int) -> None:
    draw = random.Random(seed)
    pieces = {number: bytes(draw.choices(b"ab", k=draw.randint(1, 5))) for number in range(9)}
    tokens = draw.choices(range(9), k=8)
    said = b"".join(pieces[token] for token in tokens).decode()
    stops = tuple("".join(draw.choices("ab", k=draw.randint(1, 6))) for _ in range(3))
    fold = MessageFold(
        "m",
        num_prompt=9,
        stops=stops,
        ends=stops,
        token_bytes=pieces.__getitem__,
        has_tools=False,
    )
    detokenizer = Detokenizer(pieces, stops)  # type: ignore[arg-type]
    shown = ""
    for token in tokens:
        shown += detokenizer.push(token)
        fold.add(0, OutputEvent("r", tokens=(token,)))
        if detokenizer.is_stopped:
            break
    fold.add(0, OutputEvent("r", finish_reason="stop", usage=Usage(9, 5)))
    behind = [stop for stop in stops if said.startswith(shown + stop)]
    ended_it = min(behind, key=len) if detokenizer.is_stopped else None
    assert fold.body()["stop_sequence"] == ended_it


def test_a_call_that_was_cut_has_no_arguments_and_says_why() -> None:
    fold = message_fold()
    for event in events('<tool_call>\n{"name": "add", "arguments": {"a": 1', 5, "length"):
        fold.add(0, event)
    body = fold.body()
    assert body["stop_reason"] == "max_tokens"
    assert [(b["name"], b["input"]) for b in body["content"]] == [("add", {})]


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_ollama_gives_whole_calls_in_lines_of_their_own(size: int) -> None:
    fold = OllamaFold("m", is_chat=True, has_tools=True)
    whole = OllamaFold("m", is_chat=True, has_tools=True)
    lines = [*fold.opening()]
    for event in events(f"One moment.\n{CALLS}", size):
        lines += fold.event(0, event)
        whole.add(0, event)
    lines += fold.closing()
    messages = [line["message"] for line in lines]
    calls = [call["function"] for m in messages for call in m.get("tool_calls", [])]
    assert [(call["name"], call["arguments"]) for call in calls] == EXPECTED
    assert "".join(m["content"] for m in messages) == "One moment."
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    body = whole.body()
    assert [call["function"] for call in body["message"]["tool_calls"]] == calls
    assert body["message"]["content"] == "One moment."
    for answer in (body, lines[-1]):
        assert (answer["done_reason"], answer["eval_count"]) == ("stop", 5)
        assert answer["prompt_eval_count"] == 9
