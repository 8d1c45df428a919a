"""POST /v1/chat/completions."""

import asyncio
import time

from fastapi import Request
from starlette.responses import Response

from yearling.server.body import read_json
from yearling.server.log import log_user
from yearling.server.routes.answering import (
    answer,
    build_requests,
    cache_salt,
    check_room,
    check_sampling_ids,
    service_of,
    token_texts,
)
from yearling.wire.openai.answers import ChatFold
from yearling.wire.openai.chat import parse_chat_request
from yearling.wire.openai.generation import AnswerHead

__all__ = ["create_chat_completion"]


async def create_chat_completion(request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    chat = parse_chat_request(body, service.limits.for_requests())
    model = service.models.get(chat.model)
    model.check_generates()
    model.check_ready()
    check_sampling_ids(model, chat.sampling)
    # Rendering waits for the template's process, so it happens in a thread.
    tools = () if chat.tools is None else chat.tools.tools
    prompt = await asyncio.to_thread(model.encode_chat, chat.messages, tools=tools)
    check_room(model, len(prompt), chat.sampling, parameter="messages")
    if chat.user is not None:
        log_user(chat.user)
    head = AnswerHead(
        id=AnswerHead.new_id("chatcmpl"),
        created=int(time.time()),
        model=model.name,
        fingerprint=model.fingerprint,
        has_usage_chunk=chat.has_usage_chunk,
    )
    requests = build_requests(
        [prompt],
        chat.sampling.stopping_at(model.chat_stop),
        request_id=head.id,
        num_choices=chat.num_choices,
        salt=cache_salt(request.state.salt, chat.cache_key),
    )
    has_logprobs = chat.sampling.logprobs is not None
    fold = ChatFold(
        head,
        num_choices=chat.num_choices,
        token_texts=token_texts(model.tokenizer) if has_logprobs else None,
        has_tools=chat.tools is not None,
    )
    return await answer(request, model, requests, fold, is_streamed=chat.is_streamed)
