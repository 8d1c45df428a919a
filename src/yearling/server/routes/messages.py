"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic has them."""

from starlette.requests import Request
from starlette.responses import Response

from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.routes.answering import answer, json_response, service_of
from yearling.server.routes.chat import begin_chat, encoded_chat
from yearling.server.streaming import Framing, named_frame
from yearling.serving.detokenizer import Pieces
from yearling.wire.anthropic.answers import MessageFold, error_payload
from yearling.wire.anthropic.request import parse_count_request, parse_messages_request

__all__ = ["count_tokens", "create_message"]


_FRAMING = Framing(named_frame, error_payload, b"", silence=named_frame({"type": "ping"}))


async def create_message(request: Request) -> Response:
    """Answer a conversation."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    chat = parsed(request, body, parse_messages_request, service.limits.for_requests())
    begun = await begin_chat(request, chat, "msg_")
    (only,) = begun.requests
    fold = MessageFold(
        begun.model.name,
        num_prompt=only.num_prompt_tokens,
        stops=chat.sampling.stop,
        ends=only.sampling.stop,
        token_bytes=Pieces(begun.model.tokenizer).__getitem__,
        has_tools=chat.tools is not None,
    )
    return await answer(
        request, begun.model, begun.requests, fold, is_streamed=chat.is_streamed, framing=_FRAMING
    )


async def count_tokens(request: Request) -> Response:
    """Count the tokens of a conversation, as an answer to it would report them."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    wanted = parsed(request, body, parse_count_request, service.limits.for_requests())
    model = service.models.get(wanted.model)
    prompt = await encoded_chat(model, wanted.messages, wanted.tools)
    return json_response({"input_tokens": len(prompt)})
