"""Routes of Ollama's API for answers and vectors: /api/chat, /api/generate, /api/embed."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.routes.answering import answer, json_response, service_of
from yearling.server.routes.chat import begin_chat
from yearling.server.routes.embeddings import Vectors, embed
from yearling.server.service import Service
from yearling.server.streaming import Framing
from yearling.serving.request import GenerationRequest
from yearling.wire.limits import RequestLimits
from yearling.wire.ollama.answers import OllamaFold, error_payload, load_answer
from yearling.wire.ollama.embeddings import embed_answer, parse_embed, parse_older_embed
from yearling.wire.ollama.request import LoadRequest, parse_chat, parse_generate
from yearling.wire.openai.chat import ChatRequest
from yearling.wire.openai.embeddings import EmbeddingsRequest

__all__ = [
    "ollama_chat",
    "ollama_embed",
    "ollama_generate",
    "ollama_older_embed",
    "served_name",
]

_LATEST = ":latest"

ParseChat = Callable[[Mapping[str, Any], RequestLimits, int], ChatRequest | LoadRequest]
ParseEmbed = Callable[[Mapping[str, Any], RequestLimits, int], EmbeddingsRequest]


def _frame(chunk: Mapping[str, Any]) -> bytes:
    return msgspec.json.encode(chunk) + b"\n"


_FRAMING = Framing(_frame, error_payload, b"", silence=b"", media_type="application/x-ndjson")


def served_name(service: Service, name: str) -> str:
    """The name that a model is served by: a client may put `:latest` behind it."""
    short = name.removesuffix(_LATEST)
    return name if name in {model.name for model in service.models} else short


async def ollama_chat(request: Request) -> Response:
    """Answer a conversation."""
    return await _answer(request, parse_chat, is_chat=True)


async def ollama_generate(request: Request) -> Response:
    """Answer a prompt."""
    return await _answer(request, parse_generate, is_chat=False)


async def ollama_embed(request: Request) -> Response:
    """Turn texts into vectors."""
    started = time.perf_counter_ns()
    vectors = await _embed(request, parse_embed)
    return json_response(
        embed_answer(
            vectors.model,
            vectors.values.tolist(),
            num_tokens=vectors.num_tokens,
            nanoseconds=time.perf_counter_ns() - started,
        )
    )


async def ollama_older_embed(request: Request) -> Response:
    """Turn a text into a vector."""
    vectors = await _embed(request, parse_older_embed)
    return json_response(
        {"embedding": [number for row in vectors.values.tolist() for number in row]}
    )


async def _embed(request: Request, parse: ParseEmbed) -> Vectors:
    body, context = await _read(request)
    limits = service_of(request).limits.for_requests()
    return await embed(request, parsed(request, body, parse, limits, context))


async def _answer(request: Request, parse: ParseChat, *, is_chat: bool) -> Response:
    body, context = await _read(request)
    limits = service_of(request).limits.for_requests()
    chat = parsed(request, body, parse, limits, context)
    if isinstance(chat, LoadRequest):
        return _load(request, chat, is_chat=is_chat)
    # How many tokens are wanted is a bound here, and no demand that there be room for them.
    most = chat.sampling.max_tokens
    unbounded = chat.sampling.model_copy(update={"max_tokens": None})
    begun = await begin_chat(request, replace(chat, sampling=unbounded), "chat")
    model = begun.model
    requests = [_at_most(most, work, model.context) for work in begun.requests]
    fold = OllamaFold(model.name, is_chat=is_chat, has_tools=chat.tools is not None)
    return await answer(
        request, model, requests, fold, is_streamed=chat.is_streamed, framing=_FRAMING
    )


def _at_most(most: int | None, work: GenerationRequest, context: int) -> GenerationRequest:
    if most is None or most >= context - len(work.prompt):
        return work
    return replace(work, sampling=work.sampling.model_copy(update={"max_tokens": most}))


def _load(request: Request, wanted: LoadRequest, *, is_chat: bool) -> Response:
    """Answer that a model is there, or is of no more use to a client; nothing else is done."""
    model = service_of(request).models.get(wanted.model)
    model.check_ready()
    if wanted.reason == "load":
        model.check_generates()
    line = _frame(load_answer(model.name, wanted.reason, is_chat=is_chat))
    return Response(
        line, media_type=_FRAMING.media_type if wanted.is_streamed else "application/json"
    )


async def _read(request: Request) -> tuple[dict[str, Any], int]:
    """A body that names a model as it is served, and the context that the model has."""
    service = service_of(request)
    body = await read_json(request, service.limits, needs_type=False)  # its own examples set none
    name = body.get("model")
    if isinstance(name, str):
        body = {**body, "model": served_name(service, name)}
    found = next((m for m in service.models if m.name == body.get("model")), None)
    # Without such a model there is nothing to hold a context against; it is refused later.
    return body, 1 << 31 if found is None else found.context
