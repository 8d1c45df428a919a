"""Routes of Ollama's API: /api/chat, /api/generate, /api/tags, /api/version."""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

import yearling
from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.routes.answering import answer, json_response, service_of
from yearling.server.routes.chat import begin_chat
from yearling.server.streaming import Framing
from yearling.wire.limits import RequestLimits
from yearling.wire.ollama.answers import OllamaFold, error_payload, model_entry
from yearling.wire.ollama.request import parse_chat, parse_generate
from yearling.wire.openai.chat import ChatRequest

__all__ = ["ollama_chat", "ollama_generate", "ollama_tags", "ollama_version"]

_LATEST = ":latest"

Parse = Callable[[Mapping[str, Any], RequestLimits, int], ChatRequest]


def _frame(chunk: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(chunk) + b"\n"


_FRAMING = Framing(_frame, error_payload, b"", silence=b"", media_type="application/x-ndjson")


async def ollama_chat(request: Request) -> Response:
    """Answer a conversation."""
    return await _answer(request, parse_chat, is_chat=True)


async def ollama_generate(request: Request) -> Response:
    """Answer a prompt."""
    return await _answer(request, parse_generate, is_chat=False)


async def ollama_tags(request: Request) -> Response:
    """List the models."""
    models = service_of(request).models
    return json_response(
        {"models": [model_entry(m.name, m.created, m.fingerprint) for m in models]}
    )


async def ollama_version(request: Request) -> Response:
    """Tell the version of this server."""
    return json_response({"version": yearling.__version__})


async def _answer(request: Request, parse: Parse, *, is_chat: bool) -> Response:
    service = service_of(request)
    body = await read_json(request, service.limits, needs_type=False)  # its own examples set none
    name = body.get("model")
    if isinstance(name, str) and name.endswith(_LATEST):
        served = {model.name for model in service.models}
        short = name.removesuffix(_LATEST)
        body = {**body, "model": name if name in served else short}
    found = next((m for m in service.models if m.name == body.get("model")), None)
    limits = service.limits.for_requests()
    # Without such a model there is nothing to hold a context against; `begin_chat` refuses it.
    context = 1 << 31 if found is None else found.context
    chat = parsed(request, body, parse, limits, context)
    begun = await begin_chat(request, chat, "chat")
    fold = OllamaFold(begun.model.name, is_chat=is_chat, has_tools=chat.tools is not None)
    return await answer(
        request, begun.model, begun.requests, fold, is_streamed=chat.is_streamed, framing=_FRAMING
    )
