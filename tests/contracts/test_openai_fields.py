"""Every field that the stock client can send is honoured or refused by name."""

import json
from collections.abc import Mapping
from typing import Any

import pytest
from openai.types import completion_create_params as completion_params
from openai.types import embedding_create_params as embedding_params
from openai.types.chat import chat_completion_stream_options_param as stream_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import response_create_params as response_params
from pydantic import BaseModel

from yearling.core.errors import RequestError, UnsupportedError
from yearling.server.limits import Limits
from yearling.wire.openai.chat import ChatBody, parse_chat_request
from yearling.wire.openai.completions import CompletionBody, parse_completion_request
from yearling.wire.openai.embeddings import EmbeddingBody, parse_embeddings_request
from yearling.wire.openai.fields import (
    REFUSED_CHAT_FIELDS,
    REFUSED_COMPLETION_FIELDS,
    RefusedField,
)
from yearling.wire.openai.generation import StreamOptions
from yearling.wire.openai.responses import (
    REFUSED_RESPONSE_FIELDS,
    ResponseBody,
    parse_response_request,
)

LIMITS = Limits().for_requests()
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}
EMBEDDING = {"model": "m", "input": "Hi"}
RESPONSE = {"model": "m", "input": "Hi"}
TOOLS = [{"type": "function", "name": "f"}]
GUIDES = {"guided_json", "guided_regex", "guided_choice", "guided_grammar"}
SAMPLING = {"top_k", "min_p", "repetition_penalty", "stop_token_ids", "min_tokens", "ignore_eos"}
BEAMS = {"use_beam_search", "length_penalty"}
EXTRAS = SAMPLING | GUIDES | BEAMS
UNLIKELY: Any = {"a value": ["nobody", "sends"]}
WRONG: Mapping[str, Any] = {"guided_json": ["no", "schema"]}
"""Of fields that take any object."""


def _fields(*parameters: Any) -> set[str]:
    return {name for parameter in parameters for name in parameter.__annotations__}


CHAT_FIELDS = _fields(
    chat_params.CompletionCreateParamsBase,
    chat_params.CompletionCreateParamsNonStreaming,
    chat_params.CompletionCreateParamsStreaming,
)
COMPLETION_FIELDS = _fields(
    completion_params.CompletionCreateParamsBase,
    completion_params.CompletionCreateParamsNonStreaming,
    completion_params.CompletionCreateParamsStreaming,
)


@pytest.mark.parametrize(
    ("fields", "honoured", "refused"),
    [
        (CHAT_FIELDS, ChatBody, REFUSED_CHAT_FIELDS),
        (COMPLETION_FIELDS, CompletionBody, REFUSED_COMPLETION_FIELDS),
    ],
    ids=["chat", "completions"],
)
def test_every_field_of_the_client_is_honoured_or_refused(
    fields: set[str], honoured: type[BaseModel], refused: Mapping[str, RefusedField]
) -> None:
    assert len(fields) > 15
    ours = set(honoured.model_fields)
    assert fields - ours - set(refused) == set()
    assert ours & set(refused) == set()
    assert ours - fields == EXTRAS, "fields that OpenAI does not have"


def test_every_field_of_a_response_is_honoured_or_refused() -> None:
    fields = _fields(
        response_params.ResponseCreateParamsBase,
        response_params.ResponseCreateParamsNonStreaming,
        response_params.ResponseCreateParamsStreaming,
    )
    assert set(ResponseBody.model_fields) | set(REFUSED_RESPONSE_FIELDS) == fields
    assert set(ResponseBody.model_fields) & set(REFUSED_RESPONSE_FIELDS) == set()


def test_embeddings_take_exactly_the_clients_fields() -> None:
    assert set(EmbeddingBody.model_fields) == _fields(embedding_params.EmbeddingCreateParams)


def test_stream_options_are_the_clients() -> None:
    theirs = _fields(stream_params.ChatCompletionStreamOptionsParam)
    assert theirs == set(StreamOptions.model_fields)


@pytest.mark.parametrize("field", sorted(REFUSED_CHAT_FIELDS))
def test_refused_chat_field_names_itself(field: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{field} is not supported: ") as caught:
        parse_chat_request(CHAT | {field: UNLIKELY}, LIMITS)
    assert caught.value.parameter == field
    for harmless in (None, *REFUSED_CHAT_FIELDS[field].harmless):
        parse_chat_request(CHAT | {field: json.loads(json.dumps(harmless))}, LIMITS)


@pytest.mark.parametrize("field", sorted(REFUSED_COMPLETION_FIELDS))
def test_refused_completion_field_names_itself(field: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{field} is not supported: "):
        parse_completion_request(COMPLETION | {field: UNLIKELY}, LIMITS)


@pytest.mark.parametrize("field", sorted(set(ChatBody.model_fields) - {"messages"}))
def test_honoured_chat_field_of_a_wrong_type_names_itself(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_chat_request(CHAT | {field: WRONG.get(field, UNLIKELY)}, LIMITS)
    assert (caught.value.parameter or "").split(".")[0] == field


@pytest.mark.parametrize("field", sorted(set(CompletionBody.model_fields) - {"prompt"}))
def test_honoured_completion_field_of_a_wrong_type_names_itself(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_completion_request(COMPLETION | {field: WRONG.get(field, UNLIKELY)}, LIMITS)
    assert (caught.value.parameter or "").split(".")[0] == field


@pytest.mark.parametrize("field", sorted(set(EmbeddingBody.model_fields) - {"input"}))
def test_honoured_embedding_field_of_a_wrong_type_names_itself(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_embeddings_request(EMBEDDING | {field: UNLIKELY}, LIMITS)
    assert caught.value.parameter == field


@pytest.mark.parametrize("field", sorted(REFUSED_RESPONSE_FIELDS))
def test_refused_response_field_names_itself(field: str) -> None:
    with pytest.raises(UnsupportedError, match=f"^{field} is not supported: ") as caught:
        parse_response_request(RESPONSE | {field: UNLIKELY}, LIMITS)
    assert caught.value.parameter == field
    for harmless in (None, *REFUSED_RESPONSE_FIELDS[field].harmless):
        parse_response_request(RESPONSE | {field: json.loads(json.dumps(harmless))}, LIMITS)


@pytest.mark.parametrize("field", sorted(ResponseBody.model_fields))
def test_honoured_response_field_of_a_wrong_type_names_itself(field: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_response_request(RESPONSE | {field: UNLIKELY}, LIMITS)
    assert (caught.value.parameter or "").split(".")[0].split("[")[0] == field


@pytest.mark.parametrize(
    ("changes", "parameter"),
    [
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": []}]}, "input[0].type"),
        ({"input": [{"role": "king", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
         "input[0].content[0].type"),
        ({"input": [{"type": "function_call_output", "output": "1"}]}, "input[0].call_id"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_object"}}, "tools": TOOLS}, "text.format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"include": ["reasoning.encrypted_content"]}, "include"),
        ({"text": {"format": {"type": "text", "strict": True}}}, "text.format"),
        ({"previous_response_id": ""}, "previous_response_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"tools": TOOLS, "top_logprobs": 1}, "include"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"stream_options": {"include_obfuscation": False}}, "stream_options"),
    ],
)  # fmt: skip
def test_wrong_value_of_a_response_is_refused_by_name(
    changes: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse_response_request(RESPONSE | changes, LIMITS)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("field", ["best", "Temperature", "max_token", "guided_xml", "x" * 300])
def test_unknown_field_is_refused_by_name(field: str) -> None:
    parsers: list[tuple[Any, dict[str, Any]]] = [
        (parse_chat_request, CHAT),
        (parse_completion_request, COMPLETION),
        (parse_embeddings_request, EMBEDDING),
        (parse_response_request, RESPONSE),
    ]
    for parse, body in parsers:
        with pytest.raises(UnsupportedError, match="is not a field of this request") as caught:
            parse(body | {field: 1}, LIMITS)
        assert field.startswith(caught.value.parameter or "?")
