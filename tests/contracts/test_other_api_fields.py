"""Every field that Anthropic's and Ollama's own clients can send is honoured or refused by name."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import ollama
import pytest
from anthropic.types import ToolUseBlock
from anthropic.types import message_count_tokens_params as count_params
from anthropic.types import message_create_params as message_params
from ollama import _types as ollama_types
from pydantic import BaseModel

from yearling.core.errors import RequestError, UnsupportedError
from yearling.server.limits import Limits
from yearling.wire.anthropic import request as anthropic_request
from yearling.wire.ollama import embeddings as ollama_embeddings
from yearling.wire.ollama import models as ollama_models
from yearling.wire.ollama import request as ollama_request
from yearling.wire.openai.fields import RefusedField

LIMITS = Limits().for_requests()
TURN = {"role": "user", "content": "Hi"}
MESSAGE = {"model": "m", "max_tokens": 8, "messages": [TURN]}
COUNT = {"model": "m", "messages": [TURN]}
CHAT = {"model": "m", "messages": [TURN]}
GENERATE = {"model": "m", "prompt": "Hi"}
EMBED = {"model": "m", "input": "Hi"}
UNLIKELY: Any = {"a value": ["nobody", "sends"]}

parse_message = partial(anthropic_request.parse_messages_request, limits=LIMITS)
parse_count = partial(anthropic_request.parse_count_request, limits=LIMITS)
parse_chat = partial(ollama_request.parse_chat, limits=LIMITS, context=512)
parse_generate = partial(ollama_request.parse_generate, limits=LIMITS, context=512)
parse_embed = partial(ollama_embeddings.parse_embed, limits=LIMITS, context=512)
parse_older_embed = partial(ollama_embeddings.parse_older_embed, limits=LIMITS, context=512)

MESSAGE_FIELDS = {
    name
    for parameters in (
        message_params.MessageCreateParamsBase,
        message_params.MessageCreateParamsNonStreaming,
        message_params.MessageCreateParamsStreaming,
    )
    for name in parameters.__annotations__
}


@pytest.mark.parametrize(
    ("fields", "honoured", "refused"),
    [
        (
            MESSAGE_FIELDS,
            anthropic_request.MessagesBody,
            anthropic_request.REFUSED_FIELDS,
        ),
        (
            set(count_params.MessageCountTokensParams.__annotations__),
            anthropic_request.ConversationBody,
            anthropic_request.REFUSED_FIELDS,
        ),
        (
            set(ollama_types.ChatRequest.model_fields),
            ollama_request.ChatBody,
            ollama_request.REFUSED_FIELDS,
        ),
        (
            set(ollama_types.GenerateRequest.model_fields),
            ollama_request.GenerateBody,
            ollama_request.REFUSED_FIELDS,
        ),
        (
            set(ollama.Options.model_fields),
            ollama_request.Options,
            ollama_request.REFUSED_OPTIONS,
        ),
        (
            set(ollama_types.EmbedRequest.model_fields),
            ollama_embeddings.EmbedBody,
            {},
        ),
        (
            set(ollama_types.EmbeddingsRequest.model_fields),
            ollama_embeddings.OlderEmbedBody,
            {},
        ),
        (
            set(ollama.Options.model_fields),
            ollama_embeddings.EmbedOptions,
            ollama_embeddings.REFUSED_EMBED_OPTIONS,
        ),
        (
            set(ollama_types.ShowRequest.model_fields),
            ollama_models.ShowBody,
            ollama_models.REFUSED_SHOW_FIELDS,
        ),
    ],
    ids=[
        "messages",
        "count",
        "chat",
        "generate",
        "options",
        "embed",
        "older embed",
        "embed options",
        "show",
    ],
)
def test_every_field_of_the_client_is_honoured_or_refused(
    fields: set[str], honoured: type[BaseModel], refused: Mapping[str, RefusedField]
) -> None:
    assert "model" in fields or len(fields) > 5
    assert fields - set(honoured.model_fields) - set(refused) == set()
    assert set(honoured.model_fields) & set(refused) == set()


@pytest.mark.parametrize(
    ("parse", "body", "field"),
    [
        *((parse_message, MESSAGE, field) for field in anthropic_request.REFUSED_FIELDS),
        *((parse_count, COUNT, field) for field in anthropic_request.REFUSED_FIELDS),
        *((parse_chat, CHAT, field) for field in ollama_request.REFUSED_FIELDS),
        *((parse_generate, GENERATE, field) for field in ollama_request.REFUSED_FIELDS),
        *(
            (ollama_models.parse_show, {"model": "m"}, field)
            for field in ollama_models.REFUSED_SHOW_FIELDS
        ),
    ],
)
def test_refused_field_names_itself(
    parse: Callable[[Mapping[str, Any]], Any], body: dict[str, Any], field: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"^{field} is not supported: ") as caught:
        parse({**body, field: UNLIKELY})
    assert caught.value.parameter == field


@pytest.mark.parametrize(
    ("parse", "body", "option"),
    [
        *((parse_chat, CHAT, option) for option in ollama_request.REFUSED_OPTIONS),
        *((parse_embed, EMBED, option) for option in ollama_embeddings.REFUSED_EMBED_OPTIONS),
    ],
)
def test_refused_option_names_itself(
    parse: Callable[[Mapping[str, Any]], Any], body: dict[str, Any], option: str
) -> None:
    with pytest.raises(UnsupportedError, match=f"{option} is not supported: ") as caught:
        parse({**body, "options": {option: UNLIKELY}})
    assert caught.value.parameter == f"options.{option}"


@pytest.mark.parametrize(
    ("parse", "body", "parameter"),
    [
        (parse_message, MESSAGE | {"tempratur": 1}, "tempratur"),
        (parse_message, {"model": "m", "messages": [TURN]}, "max_tokens"),
        (parse_count, MESSAGE, "max_tokens"),
        (parse_count, COUNT | {"temperature": 0}, "temperature"),
        (parse_message, MESSAGE | {"temperature": 2}, "temperature"),
        (parse_message, MESSAGE | {"tools": [{"name": "a" * 129, "input_schema": {}}]},
         "tools[0].name"),
        (parse_message, MESSAGE | {"tool_choice": {"type": "tool"}}, "tool_choice"),
        (parse_message, MESSAGE | {"tool_choice": {"type": "any"}}, "tool_choice"),
        (parse_message, MESSAGE | {"messages": [{"role": "user", "content": []}]},
         "messages[0].content"),
        (parse_message, MESSAGE | {"messages": [{"role": "king", "content": "x"}]},
         "messages[0].role"),
        (parse_message,
         MESSAGE | {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
         "messages[0].content[0].text"),
        (parse_message, MESSAGE | {"messages": [TURN, {"role": "assistant", "content": "{"}]},
         "messages[1]"),
        (parse_chat, CHAT | {"mood": 1}, "mood"),
        (parse_chat, CHAT | {"messages": [{"role": "assistant", "tool_calls": 5}]},
         "messages[0].tool_calls"),
        (parse_chat, CHAT | {"format": "xml"}, "format"),
        (parse_chat, CHAT | {"options": {"top_p": 2}}, "options.top_p"),
        (parse_chat, CHAT | {"options": {"num_ctx": 513}}, "options.num_ctx"),
        (parse_chat, CHAT | {"messages": [TURN, {"role": "king", "content": "x"}]},
         "messages[1].role"),
        (parse_chat, CHAT | {"messages": [{**TURN, "images": ["x"]}]}, "messages[0].images"),
        (parse_chat, CHAT | {"messages": [{"role": "assistant", "tool_calls": [{}]}]},
         "messages[0].tool_calls[0]"),
        (parse_chat, CHAT | {"messages": [{"role": "tool", "content": "", "tool_name": 5}]},
         "messages[0].tool_name"),
        (parse_chat, CHAT | {"keep_alive": "for ever"}, "keep_alive"),
        (parse_generate, {"prompt": "Hi"}, "model"),
        (parse_generate, {"model": "m", "options": {"num_ctx": 513}}, "options.num_ctx"),
        (parse_generate, {"model": "m", "suffix": "x"}, "suffix"),
        (parse_embed, EMBED | {"input": [72, 105]}, "input"),
        (parse_embed, EMBED | {"input": ["Hi", ""]}, "input[1]"),
        (parse_embed, EMBED | {"options": {"num_ctx": 513}}, "options.num_ctx"),
        (parse_embed, EMBED | {"dimensions": 0}, "dimensions"),
        (parse_older_embed, {"model": "m", "prompt": "Hi", "truncate": True}, "truncate"),
        (ollama_models.parse_show, {}, "model"),
    ],
)  # fmt: skip
def test_wrong_value_is_refused_by_name(
    parse: Callable[[Mapping[str, Any]], Any], body: dict[str, Any], parameter: str
) -> None:
    with pytest.raises(RequestError) as caught:
        parse(body)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize("is_strict", [True, None])
def test_strictness_of_a_tool_reaches_its_guide(is_strict: bool | None) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}, "strict": is_strict}
    chat = parse_message(MESSAGE | {"tools": [tool]})
    assert chat.sampling.guide is not None
    assert ('"lenient": false' in (chat.sampling.guide.grammar or "")) is bool(is_strict)


def test_blocks_that_a_client_echoes_are_taken() -> None:
    block = ToolUseBlock(type="tool_use", id="toolu_1", name="add", input={"a": 1})
    direct = {**block.model_dump(), "caller": {"type": "direct"}}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "2"}
    messages = [
        TURN,
        {"role": "assistant", "content": [block.model_dump(), direct]},
        {"role": "user", "content": [result]},
    ]
    chat = parse_message(MESSAGE | {"messages": messages})
    assert [call.name for call in chat.messages[1].tool_calls] == ["add", "add"]
    assert (chat.messages[2].role, chat.messages[2].text) == ("tool", "2")
