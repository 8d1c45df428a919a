"""POST /v1/chat/completions, and the beginning of every chat, whatever its API."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import TemplateError
from yearling.core.messages import Message
from yearling.server.body import read_json
from yearling.server.errors import HttpError
from yearling.server.lenience import parsed
from yearling.server.log import log_user
from yearling.server.models import ServedModel
from yearling.server.routes.answering import (
    answer,
    build_requests,
    cache_salt,
    check_room,
    check_sampling,
    service_of,
    token_texts,
)
from yearling.serving.request import GenerationRequest
from yearling.wire.openai.answers import ChatFold
from yearling.wire.openai.chat import ChatRequest, parse_chat_request
from yearling.wire.openai.errors import error_reply
from yearling.wire.openai.generation import AnswerHead
from yearling.wire.openai.tools import ToolUse

__all__ = ["BegunChat", "begin_chat", "create_chat_completion", "encoded_chat"]


@dataclass(frozen=True, slots=True)
class BegunChat:
    """A chat on its way to the engine.

    Attributes:
        model: That answers.
        request_id: Of the answer.
        requests: One for each choice.
    """

    model: ServedModel
    request_id: str
    requests: Sequence[GenerationRequest]


async def begin_chat(
    request: Request, chat: ChatRequest, prefix: str, *, parameter: str = "messages"
) -> BegunChat:
    """Find the model and turn a conversation into requests of its engine.

    Args:
        request: As it came.
        chat: What it asks.
        prefix: Of the answer's identifier.
        parameter: What the request calls the conversation.

    Raises:
        YearlingError: the model is not served, not ready, or cannot take the conversation.
        HttpError: its template refuses the conversation.
    """
    model = service_of(request).models.get(chat.model)
    model.check_generates()
    model.check_takes_work()
    check_sampling(model, chat.sampling)
    prompt = await encoded_chat(model, chat.messages, chat.tools, parameter=parameter)
    check_room(model, len(prompt), chat.sampling, parameter=parameter)
    if chat.user is not None:
        log_user(chat.user)
    request_id = AnswerHead.new_id(prefix)
    requests = build_requests(
        [prompt],
        chat.sampling.stopping_at(model.chat_stop),
        request_id=request_id,
        num_choices=chat.num_choices,
        salt=cache_salt(request.state.salt, chat.cache_key),
    )
    return BegunChat(model, request_id, requests)


async def encoded_chat(
    model: ServedModel,
    messages: Sequence[Message],
    tools: ToolUse | None,
    *,
    parameter: str = "messages",
) -> list[int]:
    """A conversation as the model reads it; rendering waits for a process, so it is in a thread.

    Raises:
        YearlingError: the model cannot take the conversation.
        HttpError: its template refuses it.
    """
    offered = () if tools is None else tools.tools
    try:
        return await asyncio.to_thread(
            model.encode_chat, messages, tools=offered, parameter=parameter
        )
    except TemplateError as error:
        raise HttpError(replace(error_reply(error), param=parameter)) from error


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    if (backend := service.backend_of(body)) is not None:
        return await backend.forward(request, body)
    chat = parsed(request, body, parse_chat_request, service.limits.for_requests())
    begun = await begin_chat(request, chat, "chatcmpl-")
    model = begun.model
    head = AnswerHead(
        id=begun.request_id,
        created=int(time.time()),
        model=model.name,
        fingerprint=model.fingerprint,
        has_usage_chunk=chat.has_usage_chunk,
    )
    has_logprobs = chat.sampling.logprobs is not None
    fold = ChatFold(
        head,
        num_choices=chat.num_choices,
        token_texts=token_texts(model.tokenizer) if has_logprobs else None,
        has_tools=chat.tools is not None,
    )
    return await answer(
        request, model, begun.requests, fold, is_streamed=chat.is_streamed, beams=chat.beams
    )
