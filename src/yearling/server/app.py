"""The application: its routes, who may call them, and how errors look."""

import functools
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute

from yearling import __version__
from yearling.core.errors import YearlingError
from yearling.server.config import ServerConfig
from yearling.server.errors import error_response, reply_of
from yearling.server.front import Front
from yearling.server.models import ServedModel
from yearling.server.openapi import Route, describe
from yearling.server.routes.chat import create_chat_completion
from yearling.server.routes.completions import create_completion
from yearling.server.routes.embeddings import create_embeddings
from yearling.server.routes.loras import load_lora_adapter, unload_lora_adapter
from yearling.server.routes.messages import count_tokens, create_message
from yearling.server.routes.ollama import (
    ollama_chat,
    ollama_embed,
    ollama_generate,
    ollama_older_embed,
)
from yearling.server.routes.ollama_models import (
    ollama_ps,
    ollama_show,
    ollama_tags,
    ollama_version,
)
from yearling.server.routes.page import asset, page
from yearling.server.routes.responses import (
    count_input_tokens,
    create_response,
    delete_response,
    retrieve_response,
)
from yearling.server.routes.status import (
    health,
    list_models,
    metrics,
    openapi,
    retrieve_model,
)
from yearling.server.routes.tokenization import detokenize, tokenize
from yearling.server.service import Service
from yearling.wire.anthropic.request import ConversationBody, MessagesBody
from yearling.wire.ollama.embeddings import EmbedBody, OlderEmbedBody
from yearling.wire.ollama.models import ShowBody
from yearling.wire.ollama.request import ChatBody as OllamaChatBody
from yearling.wire.ollama.request import GenerateBody
from yearling.wire.openai.chat import ChatBody
from yearling.wire.openai.completions import CompletionBody
from yearling.wire.openai.embeddings import EmbeddingBody
from yearling.wire.openai.loras import LoadLoraBody, UnloadLoraBody
from yearling.wire.openai.responses import ResponseBody
from yearling.wire.openai.tokenization import DetokenizeBody, TokenizeBody

if TYPE_CHECKING:
    from yearling.server.backends import Backend

__all__ = ["build_app"]

_READING = ["GET", "HEAD"]
_ROUTES: Sequence[Route] = (
    ("/", page, _READING, None),
    ("/assets/{path:path}", asset, _READING, None),
    ("/health", health, _READING, None),
    ("/metrics", metrics, _READING, None),
    ("/openapi.json", openapi, _READING, None),
    ("/v1/models", list_models, _READING, None),
    ("/v1/models/{name:path}", retrieve_model, _READING, None),
    ("/v1/chat/completions", create_chat_completion, ["POST"], ChatBody),
    ("/v1/completions", create_completion, ["POST"], CompletionBody),
    ("/v1/responses", create_response, ["POST"], ResponseBody),
    ("/v1/responses/input_tokens", count_input_tokens, ["POST"], ResponseBody),
    ("/v1/responses/{response_id}", retrieve_response, _READING, None),
    ("/v1/responses/{response_id}", delete_response, ["DELETE"], None),
    ("/v1/messages", create_message, ["POST"], MessagesBody),
    ("/v1/messages/count_tokens", count_tokens, ["POST"], ConversationBody),
    ("/v1/embeddings", create_embeddings, ["POST"], EmbeddingBody),
    ("/v1/load_lora_adapter", load_lora_adapter, ["POST"], LoadLoraBody),
    ("/v1/unload_lora_adapter", unload_lora_adapter, ["POST"], UnloadLoraBody),
    ("/api/chat", ollama_chat, ["POST"], OllamaChatBody),
    ("/api/generate", ollama_generate, ["POST"], GenerateBody),
    ("/api/embed", ollama_embed, ["POST"], EmbedBody),
    ("/api/embeddings", ollama_older_embed, ["POST"], OlderEmbedBody),
    ("/api/show", ollama_show, ["POST"], ShowBody),
    ("/api/tags", ollama_tags, _READING, None),
    ("/api/ps", ollama_ps, _READING, None),
    ("/api/version", ollama_version, _READING, None),
    ("/tokenize", tokenize, ["POST"], TokenizeBody),
    ("/detokenize", detokenize, ["POST"], DetokenizeBody),
)
_PUBLIC = frozenset({page, asset, health})


def build_app(
    models: Sequence[ServedModel], config: ServerConfig, backends: "Sequence[Backend]" = ()
) -> Starlette:
    """Build the application over models whose engines the caller starts and stops.

    The key is demanded around every endpoint but those that the set names by their own objects,
    so that no path spelling can open another.
    """
    service = Service(models, config, backends)
    app = Starlette(
        routes=[
            StarletteRoute(
                path, endpoint if endpoint in _PUBLIC else _guarded(endpoint), methods=list(methods)
            )
            for path, endpoint, methods, _ in _ROUTES
        ],
        exception_handlers={HTTPException: _answer_http_exception},
        middleware=[Middleware(Front, service=service)],
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.openapi = describe(_ROUTES, __version__)
    return app


def _guarded(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Let a request pass with the right key only; note its account's salt."""

    @functools.wraps(endpoint)
    async def with_key(request: Request) -> Response:
        service: Service = request.app.state.service
        request.state.salt = service.access.check_key(request.headers)
        return await endpoint(request)

    return with_key


async def _answer_http_exception(request: Request, error: Exception) -> Response:
    """Answer 404 and 405 as OpenAI does, telling strangers nothing about which routes exist."""
    service: Service = request.app.state.service
    try:
        if request.scope.get("endpoint") not in _PUBLIC:
            service.access.check_key(request.headers)
    except YearlingError as refusal:
        error = refusal
    response = error_response(reply_of(error), request.scope)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
