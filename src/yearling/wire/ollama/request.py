"""Requests to chat and to generate, put in the internal terms of a chat.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md; every field is honoured or in
`REFUSED_FIELDS`, every option honoured or in `REFUSED_OPTIONS`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from yearling.core.errors import RequestError
from yearling.core.messages import ContentPart, Message, ToolCall, parse_messages
from yearling.serving.request import Guide, SamplingParams
from yearling.wire.limits import RequestLimits
from yearling.wire.openai.chat import ChatRequest
from yearling.wire.openai.fields import RefusedField, read_fields, validated_as
from yearling.wire.openai.tools import Tool, tool_use

__all__ = [
    "REFUSED_FIELDS",
    "REFUSED_OPTIONS",
    "ChatBody",
    "GenerateBody",
    "KeepAlive",
    "LoadRequest",
    "Options",
    "check_context",
    "parse_chat",
    "parse_generate",
    "read_options",
]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)
_DURATION = re.compile(r"[-+]?(0|((\d+(\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)", re.ASCII)
_Read = TypeVar("_Read", bound=BaseModel)
_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}

REFUSED_FIELDS: Mapping[str, RefusedField] = {
    "context": RefusedField("send the conversation to /api/chat", ([],)),
    "height": RefusedField("no model here draws"),
    "images": RefusedField("no model here sees", ([],)),
    "logprobs": RefusedField("ask for them at /v1/chat/completions", (False,)),
    "raw": RefusedField("send such a prompt to /v1/completions", (False,)),
    "shift": RefusedField("nothing is taken out of a conversation here", (False,)),
    "steps": RefusedField("no model here draws"),
    "suffix": RefusedField("filling in the middle is not part of this version", ("",)),
    "template": RefusedField("start the server with --chat-template", ("",)),
    "think": RefusedField("no model here thinks before it answers", (False,)),
    "top_logprobs": RefusedField("ask for them at /v1/chat/completions", (0,)),
    "truncate": RefusedField("nothing is taken out of a conversation here", (False,)),
    "width": RefusedField("no model here draws"),
}

_FIXED = "it is fixed when the server starts"
_NO_SAMPLER = "there is no such way to choose tokens here"

REFUSED_OPTIONS: Mapping[str, RefusedField] = {
    "embedding_only": RefusedField(_FIXED, (False,)),
    "f16_kv": RefusedField(_FIXED),
    "logits_all": RefusedField(_FIXED, (False,)),
    "low_vram": RefusedField(_FIXED, (False,)),
    "main_gpu": RefusedField(_FIXED, (0,)),
    "mirostat": RefusedField(_NO_SAMPLER, (0,)),
    "mirostat_eta": RefusedField(_NO_SAMPLER, (0.1,)),
    "mirostat_tau": RefusedField(_NO_SAMPLER, (5.0,)),
    "num_batch": RefusedField(_FIXED),
    "num_gpu": RefusedField(_FIXED, (0,)),
    "num_keep": RefusedField("nothing is taken out of a conversation here"),
    "num_thread": RefusedField(_FIXED),
    "numa": RefusedField(_FIXED, (False,)),
    "penalize_newline": RefusedField(_NO_SAMPLER),
    "repeat_last_n": RefusedField("penalties see the whole conversation here", (-1,)),
    "tfs_z": RefusedField(_NO_SAMPLER, (1.0,)),
    "typical_p": RefusedField(_NO_SAMPLER, (1.0,)),
    "use_mlock": RefusedField(_FIXED, (False,)),
    "use_mmap": RefusedField(_FIXED),
    "vocab_only": RefusedField(_FIXED, (False,)),
}


_OPTION_NAMES = {
    "max_tokens": "options.num_predict",
    "repetition_penalty": "options.repeat_penalty",
    "guide": "format",
}


def _duration(value: str | float) -> str | float:
    if isinstance(value, str) and _DURATION.fullmatch(value) is None:
        raise ValueError("a duration is a number of seconds, or a text such as 5m")
    return value


KeepAlive = Annotated[str | float | None, AfterValidator(_duration)]
"""Seconds, or a text as Go writes durations."""


class Options(BaseModel):
    """How tokens are chosen."""

    model_config = _STRICT

    num_predict: int | None = Field(
        default=None, description="New tokens at most; 0 and less: all that fit."
    )
    num_ctx: int | None = Field(default=None, ge=1, description="At most what the server has.")
    temperature: float | None = Field(default=None, description="0 is greedy.")
    top_k: int | None = Field(default=None, description="Keep the k likeliest; 0 keeps all.")
    top_p: float | None = Field(default=None, description="Mass kept.")
    min_p: float | None = Field(default=None, description="Share of the likeliest to reach.")
    seed: int | None = Field(default=None, description="Makes the draw reproducible.")
    stop: list[str] | None = Field(default=None, description="Texts that end the answer.")
    repeat_penalty: float | None = Field(default=None, description="1 is none.")
    presence_penalty: float | None = Field(default=None, description="0 is none.")
    frequency_penalty: float | None = Field(default=None, description="0 is none.")

    @field_validator("stop", mode="before")
    @classmethod
    def _one_stop_is_a_list(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value


class _Body(BaseModel):
    """What both have."""

    model_config = _STRICT

    model: str = Field(min_length=1, max_length=256, description="Name as /api/tags lists it.")
    stream: bool | None = Field(default=None, description="Send the answer in pieces; it is.")
    format: Any = Field(default=None, description="`json`, or a JSON Schema.")
    options: dict[str, Any] | None = Field(default=None, description="How tokens are chosen.")
    keep_alive: KeepAlive = Field(
        default=None, description="Without effect: the server says how long models stay loaded."
    )


class ChatBody(_Body):
    """The fields of a chat that are honoured."""

    messages: list[dict[str, Any]] = Field(
        default=[], description="The conversation so far; none loads the model."
    )
    tools: list[Tool] | None = Field(default=None, description="Functions that may be called.")


class GenerateBody(_Body):
    """The fields of a generation that are honoured."""

    prompt: str = Field(default="", description="What the user says; nothing loads the model.")
    system: str | None = Field(default=None, description="What comes before it.")


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """Asks for no answer: the model is to be loaded, or let go of.

    Attributes:
        model: Its name.
        reason: Which of the two, as the answer says it.
        is_streamed: Whether the answer is to be a line of a stream.
    """

    model: str
    reason: Literal["load", "unload"]
    is_streamed: bool


def parse_chat(
    body: Mapping[str, Any], limits: RequestLimits, context: int
) -> ChatRequest | LoadRequest:
    """Check a chat and put it in internal terms.

    Args:
        body: As it came.
        limits: Of requests.
        context: Tokens that the model has.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(ChatBody, body, REFUSED_FIELDS)
    limits.check_messages(fields.messages)
    tools = tool_use(fields.tools, None, is_parallel=True)
    guide = _guide(fields.format)
    if tools is not None and guide is not None:
        raise RequestError(
            "format and tools both say what the answer must be: send one.", parameter="format"
        )
    guide = tools.guide if tools is not None else guide
    sampling = _sampling(fields, limits, context, guide)
    if not fields.messages:
        return _load_request(fields)
    return ChatRequest(
        model=fields.model,
        messages=_messages(fields.messages),
        sampling=sampling,
        num_choices=1,
        is_streamed=fields.stream is not False,
        has_usage_chunk=False,
        cache_key="",
        user=None,
        tools=tools,
    )


def parse_generate(
    body: Mapping[str, Any], limits: RequestLimits, context: int
) -> ChatRequest | LoadRequest:
    """Check a generation, which is a chat of one turn; see `parse_chat`."""
    fields = read_fields(GenerateBody, body, REFUSED_FIELDS)
    sampling = _sampling(fields, limits, context, _guide(fields.format))
    if not fields.prompt:
        return _load_request(fields)
    messages = [Message("user", (ContentPart(fields.prompt),))]
    if fields.system:
        messages.insert(0, Message("system", (ContentPart(fields.system),)))
    return ChatRequest(
        model=fields.model,
        messages=tuple(messages),
        sampling=sampling,
        num_choices=1,
        is_streamed=fields.stream is not False,
        has_usage_chunk=False,
        cache_key="",
        user=None,
    )


def _load_request(fields: _Body) -> LoadRequest:
    is_over = fields.keep_alive is not None and not re.search("[1-9]", str(fields.keep_alive))
    return LoadRequest(fields.model, "unload" if is_over else "load", fields.stream is not False)


def _guide(wanted: object) -> Guide | None:
    if wanted is None or wanted == "":
        return None
    if wanted == "json":
        return Guide(json_schema=_ANY_OBJECT, field="format")
    if isinstance(wanted, dict):
        return Guide(json_schema=wanted, field="format")
    raise RequestError("format is json or a JSON Schema.", parameter="format")


def read_options(
    kind: type[_Read], given: Mapping[str, Any] | None, refused: Mapping[str, RefusedField]
) -> _Read:
    """Read the options of a request.

    Raises:
        RequestError: one is wrong, unknown or not supported; `parameter` names it.
    """
    try:
        return read_fields(kind, given or {}, refused)
    except RequestError as error:
        name = f"options.{error.parameter}"
        raise type(error)(f"options: {error}", parameter=name) from None


def check_context(num_ctx: int | None, context: int) -> None:
    """Refuse to give a model more context than it has.

    Raises:
        RequestError: more is asked for.
    """
    if num_ctx is not None and num_ctx > context:
        raise RequestError(
            f"options.num_ctx is {num_ctx}; this model has {context} tokens here.",
            parameter="options.num_ctx",
        )


def _sampling(
    fields: _Body, limits: RequestLimits, context: int, guide: Guide | None
) -> SamplingParams:
    options = read_options(Options, fields.options, REFUSED_OPTIONS)
    check_context(options.num_ctx, context)
    limits.check_stops(options.stop or (), "options.stop")
    wanted = options.model_dump(exclude={"num_ctx", "num_predict", "repeat_penalty", "stop"})
    wanted |= {
        "max_tokens": options.num_predict if (options.num_predict or 0) > 0 else None,
        "repetition_penalty": options.repeat_penalty,
        "stop": None if options.stop is None else tuple(options.stop),
        "guide": guide,
    }
    return validated_as(SamplingParams, wanted, _OPTION_NAMES, "options.")


def _messages(raw: Sequence[Mapping[str, Any]]) -> tuple[Message, ...]:
    """OpenAI's messages, but for calls, whose arguments are objects without an id."""
    messages: list[Message] = []
    for number, given in enumerate(raw):
        where = f"messages[{number}]"
        rest = {key: value for key, value in given.items() if value is not None}
        given_calls = rest.pop("tool_calls", [])
        if not isinstance(given_calls, list):
            raise RequestError(
                f"{where}.tool_calls must be a list.", parameter=f"{where}.tool_calls"
            )
        calls = tuple(
            _tool_call(call, f"{where}.tool_calls[{index}]")
            for index, call in enumerate(given_calls)
        )
        if "tool_name" in rest:
            rest["name"] = _tool_name(rest.pop("tool_name"), f"{where}.tool_name")
        if rest.pop("images", None):
            raise RequestError(f"{where}.images: no model here sees.", parameter=f"{where}.images")
        try:
            (message,) = parse_messages([rest])
        except RequestError as error:
            parameter = (error.parameter or "").replace("messages[0]", where)
            text = str(error).replace("messages[0]", where)
            raise type(error)(text, parameter=parameter) from None
        messages.append(
            Message(message.role, message.content, tool_calls=calls) if calls else message
        )
    return tuple(messages)


def _tool_name(raw: object, where: str) -> str:
    if not isinstance(raw, str):
        raise RequestError(f"{where} must be a text.", parameter=where)
    return raw


def _tool_call(raw: object, where: str) -> ToolCall:
    function = raw.get("function") if isinstance(raw, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise RequestError(f"{where} must have a function with a name.", parameter=where)
    arguments = function.get("arguments", {})
    if not isinstance(arguments, Mapping):
        raise RequestError(f"{where}.function.arguments must be an object.", parameter=where)
    return ToolCall("", function["name"], json.dumps(arguments, ensure_ascii=False))
