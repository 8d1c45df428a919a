"""Chat completion requests in, chunks and bodies out."""

import pytest

from yearling.core.errors import RequestError, UnsupportedError
from yearling.core.messages import Message, ToolCall
from yearling.server.limits import Limits
from yearling.serving.request import OutputEvent, TokenLogprob, Usage
from yearling.wire.openai.answers import ChatFold, TokenTexts
from yearling.wire.openai.chat import parse_chat_request
from yearling.wire.openai.generation import AnswerHead

LIMITS = Limits().for_requests()
BODY = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}


def test_defaults_are_openais() -> None:
    chat = parse_chat_request(BODY, LIMITS)
    assert (chat.sampling.temperature, chat.sampling.top_p, chat.num_choices) == (1.0, 1.0, 1)
    assert chat.sampling.max_tokens is None
    assert chat.sampling.logprobs is None
    assert not chat.is_streamed


def test_null_means_unset() -> None:
    nulls = dict.fromkeys(("temperature", "n", "stop", "tools", "stream", "logprobs", "user"))
    assert parse_chat_request(BODY | nulls, LIMITS) == parse_chat_request(BODY, LIMITS)


def test_every_sampling_field_arrives() -> None:
    chat = parse_chat_request(
        BODY
        | {
            "temperature": 0,
            "top_p": 0.5,
            "top_k": 3,
            "min_p": 0.1,
            "repetition_penalty": 1.5,
            "presence_penalty": -1,
            "frequency_penalty": 2,
            "logit_bias": {"7": -100, "8": 1.5},
            "seed": -5,
            "stop": "END",
            "stop_token_ids": [1, 2],
            "max_completion_tokens": 9,
            "logprobs": True,
            "top_logprobs": 4,
            "n": 2,
        },
        LIMITS,
    )
    sampling = chat.sampling
    assert sampling.is_greedy
    assert (sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 3, 0.1)
    assert sampling.repetition_penalty == 1.5
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (-1, 2)
    assert sampling.logit_bias == {7: -100, 8: 1.5}
    assert (sampling.seed, sampling.stop, sampling.stop_token_ids) == (-5, ("END",), (1, 2))
    assert (sampling.max_tokens, sampling.logprobs, chat.num_choices) == (9, 4, 2)


def _tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def _said(**fields: object) -> dict:
    return {"messages": [{"role": "assistant", "content": "x"} | fields]}


def test_what_clients_send_back_of_an_answer_is_read() -> None:
    """OpenAI's client adds what it read, and nulls; streams leave an index in each call."""
    call = CALL | {"index": 0, "function": CALL["function"] | {"parsed_arguments": {"a": 1}}}
    nulls = dict.fromkeys(("audio", "function_call", "refusal", "parsed"))
    answer = {"content": None, "annotations": [], "tool_calls": [call]} | nulls
    (message,) = parse_chat_request(BODY | _said(**answer), LIMITS).messages
    assert message == Message("assistant", tool_calls=(ToolCall("1", "f", "{}"),))
    read = _said(content='{"a": 1}', parsed={"a": 1}, tool_calls=None)
    assert parse_chat_request(BODY | read, LIMITS).messages[0].text == '{"a": 1}'


def _choice(name: str) -> dict:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    ("fields", "parameter"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"temperature": 11}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_k": -2}, "top_k"),
        ({"top_k": 1.5}, "top_k"),
        ({"min_p": 2}, "min_p"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"n": 0}, "n"),
        ({"n": 9}, "n"),
        ({"n": 10**18}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": [""]}, "stop[0]"),
        ({"stop": ["x" * 257]}, "stop[0]"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a", 5]}, "stop[1]"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x"),
        (
            {"stream": True, "stream_options": {"include_obfuscation": True}},
            "stream_options.include_obfuscation",
        ),
        ({"messages": []}, "messages"),
        ({"messages": "Hi"}, "messages"),
        ({"messages": [{"role": "user", "content": "x"}] * 2049}, "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "mood": 1}]}, "messages[0].mood"),
        (_said(content=[{"type": "text", "text": "x", "mood": 1}]), "messages[0].content[0].mood"),
        (_said(name={"a": 1}), "messages[0].name"),
        (_said(tool_call_id=5), "messages[0].tool_call_id"),
        (_said(tool_calls=5), "messages[0].tool_calls"),
        (_said(tool_calls=True), "messages[0].tool_calls"),
        (_said(tool_calls=[5]), "messages[0].tool_calls[0]"),
        (_said(tool_calls=[CALL | {"type": "custom"}]), "messages[0].tool_calls[0].type"),
        (_said(tool_calls=[CALL | {"mood": 1}]), "messages[0].tool_calls[0].mood"),
        (_said(tool_calls=[{"id": "1", "function": {}}]), "messages[0].tool_calls[0]"),
        (_said(annotations=[{"type": "url_citation"}]), "messages[0].annotations"),
        (_said(audio={"id": "a"}), "messages[0].audio"),
        (_said(refusal="No."), "messages[0].refusal"),
        (_said(function_call={"name": "f"}), "messages[0].function_call"),
        ({"tool_choice": "any", "tools": [_tool("a")]}, "tool_choice"),
        ({"tools": [_tool("a")], "tool_choice": "required", "min_tokens": 2}, "min_tokens"),
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"user": "u" * 257}, "user"),
        ({"tempratur": 1}, "tempratur"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [{"type": "web"}]}, "tools[0].type"),
        ({"tools": [_tool("bad name")]}, "tools[0].function.name"),
        ({"tools": [_tool("a"), _tool("a")]}, "tools"),
        ({"tools": [_tool(f"f{n}") for n in range(129)]}, "tools"),
        ({"tools": [_tool("a")], "tool_choice": _choice("b")}, "tool_choice"),
        ({"tools": [_tool("a")], "guided_regex": "x"}, "guided_regex"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"name": "x"}}},
            "response_format.json_schema",
        ),
        (
            {"response_format": {"type": "json_object"}, "guided_regex": "a"},
            "response_format",
        ),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["x"] * 1_001}, "guided_choice"),
        ({"guided_json": '{"const": "\\ud800"}'}, "guided_json"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": "[]"}, "guided_json"),
        ({"chat_template_kwargs": {"x": 1}}, "chat_template_kwargs"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_wrong_field_is_refused_by_name(fields: dict, parameter: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat_request(BODY | fields, LIMITS)
    assert caught.value.parameter == parameter
    assert parameter.split("[")[0].split(".")[0] in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "fields",
    [
        {"min_tokens": 5, "max_tokens": 2},
        {"min_tokens": 1, "guided_regex": "a"},
        {"min_tokens": 1, "tools": [_tool("a")]},
    ],
)
def test_fields_that_contradict_each_other_are_refused_here_and_not_in_the_worker(
    fields: dict,
) -> None:
    with pytest.raises(RequestError, match="min_tokens"):
        parse_chat_request(BODY | fields, LIMITS)


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_missing_field_is_named(missing: str) -> None:
    body = {key: value for key, value in BODY.items() if key != missing}
    with pytest.raises(RequestError, match=f"{missing} is required"):
        parse_chat_request(body, LIMITS)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": False},
        {"tools": [_tool("a")], "tool_choice": "none", "guided_regex": "x"},
        {"response_format": {"type": "text"}, "modalities": ["text"], "store": False},
        {"metadata": {}, "service_tier": "auto", "verbosity": "medium"},
        {"chat_template_kwargs": {}, "reasoning_effort": "none", "top_k": -1, "top_p": 0},
        {"prompt_cache_options": {"mode": "implicit"}, "stream_options": None, "functions": []},
        {"stream": True, "stream_options": {"include_obfuscation": False}},
    ],
)
def test_value_that_asks_for_nothing_is_accepted(fields: dict) -> None:
    chat = parse_chat_request(BODY | fields, LIMITS)
    assert chat.tools is None
    assert chat.messages == parse_chat_request(BODY, LIMITS).messages


def test_true_is_not_one() -> None:
    with pytest.raises(UnsupportedError, match="store"):
        parse_chat_request(BODY | {"store": 0}, LIMITS)


def _fold(**more: object) -> ChatFold:
    texts = TokenTexts(lambda token: b"<%d>" % token, lambda token: token == 0)
    options = {"num_choices": 1, "token_texts": texts} | more
    return ChatFold(AnswerHead("chatcmpl-1", 5, "m", "fp"), **options)


EVENTS = (
    OutputEvent("r", "He", (1,), (TokenLogprob(1, -0.5),)),
    OutputEvent("r", "", (2,), (TokenLogprob(2, -1.0),)),
    OutputEvent(
        "r",
        "llo",
        (0,),
        (TokenLogprob(0, float("-inf")),),
        finish_reason="stop",
        usage=Usage(3, 3, 1),
    ),
)


def test_text_of_the_last_event_comes_before_the_finish() -> None:
    fold = _fold()
    chunks = [*fold.opening()]
    for event in EVENTS:
        chunks += fold.event(0, event)
    chunks += fold.closing()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {"content": "He"},
        {"content": ""},
        {"content": "llo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["stop"]


def test_token_that_ended_the_answer_has_no_logprob() -> None:
    fold = _fold()
    for event in EVENTS:
        fold.add(0, event)
    body = fold.body()
    choice = body["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hello", "refusal": None}
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["<1>", "<2>"]
    assert body["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 3,
        "total_tokens": 6,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


def test_impossible_token_has_a_finite_logprob() -> None:
    fold = _fold()
    fold.add(0, OutputEvent("r", "x", (1,), (TokenLogprob(1, float("-inf")),)))
    fold.add(0, OutputEvent("r", finish_reason="length", usage=Usage(1, 1)))
    assert fold.body()["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


def test_usage_counts_a_prompt_once() -> None:
    fold = _fold(num_choices=2, token_texts=None)
    for index in range(2):
        fold.add(index, OutputEvent("r", "x", (1,), finish_reason="length", usage=Usage(7, 2)))
    assert fold.body()["usage"]["prompt_tokens"] == 7
    assert fold.body()["usage"]["completion_tokens"] == 4
