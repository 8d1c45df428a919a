"""POST /v1/responses, the tokens that one would read, and GET and DELETE of one that is kept."""

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import UnsupportedError
from yearling.core.messages import Message
from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.response_store import KeptResponse
from yearling.server.routes.answering import answer, json_response, service_of, token_texts
from yearling.server.routes.chat import begin_chat, encoded_chat
from yearling.server.streaming import Framing, named_frame
from yearling.wire.openai.response_answers import ResponseFold
from yearling.wire.openai.responses import ResponseRequest, parse_response_request

__all__ = ["count_input_tokens", "create_response", "delete_response", "retrieve_response"]


async def create_response(request: Request) -> Response:
    """Answer what is asked, after what was said before."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    limits = service.limits.for_requests()
    asked = parsed(request, body, parse_response_request, limits)
    account = request.state.salt
    before = _said_before(request, asked)
    chat = asked.after(before, limits)
    begun = await begin_chat(request, chat, "resp_", parameter="input")

    def keep(response: Mapping[str, Any], turn: Message) -> None:
        if asked.is_stored:
            body, said = msgspec.json.encode(response), (*before, *asked.chat.messages, turn)
            service.responses.put(account, response["id"], KeptResponse(body, said))

    has_logprobs = chat.sampling.logprobs is not None
    fold = ResponseFold(
        begun.request_id,
        model=begun.model.name,
        created=int(time.time()),
        echo=asked.echo,
        token_texts=token_texts(begun.model.tokenizer) if has_logprobs else None,
        has_tools=chat.tools is not None,
        on_done=keep,
    )
    framing = Framing(named_frame, fold.failure, b"")
    return await answer(
        request, begun.model, begun.requests, fold, is_streamed=chat.is_streamed, framing=framing
    )


async def count_input_tokens(request: Request) -> Response:
    """Say how many tokens a response would read, and make none."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    limits = service.limits.for_requests()
    asked = parsed(request, body, parse_response_request, limits)
    chat = asked.after(_said_before(request, asked), limits)
    model = service.models.get(chat.model)
    prompt = await encoded_chat(model, chat.messages, chat.tools, parameter="input")
    return json_response({"object": "response.input_tokens", "input_tokens": len(prompt)})


async def retrieve_response(request: Request) -> Response:
    """Show a response that is kept."""
    _refuse_query(request)
    kept = service_of(request).responses.get(request.state.salt, request.path_params["response_id"])
    return Response(kept.body, media_type="application/json")


async def delete_response(request: Request) -> Response:
    """Forget a response that is kept."""
    _refuse_query(request)
    response_id = request.path_params["response_id"]
    service_of(request).responses.delete(request.state.salt, response_id)
    return json_response({"id": response_id, "object": "response.deleted", "deleted": True})


def _said_before(request: Request, asked: ResponseRequest) -> tuple[Message, ...]:
    """The conversation that a response goes on from."""
    if asked.previous_id is None:
        return ()
    responses = service_of(request).responses
    kept = responses.get(request.state.salt, asked.previous_id, "previous_response_id")
    return tuple(kept.messages)


def _refuse_query(request: Request) -> None:
    for name in request.query_params:
        raise UnsupportedError(f"{name[:64]} is not supported here. Leave it out.", parameter=name)
