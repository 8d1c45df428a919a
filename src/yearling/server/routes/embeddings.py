"""POST /v1/embeddings, and the making of vectors, whatever the API."""

import asyncio
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import ContextLengthError, RequestError
from yearling.server.body import read_json
from yearling.server.generation import Generation
from yearling.server.lenience import parsed
from yearling.server.log import log_user
from yearling.server.models import ServedModel
from yearling.server.routes.answering import check_ids, json_response, service_of
from yearling.server.streaming import unless_client_leaves
from yearling.serving.request import EmbeddingRequest
from yearling.wire.openai.embeddings import (
    EmbeddingsRequest,
    check_dimensions,
    embedding_list,
    parse_embeddings_request,
    shorten,
)
from yearling.wire.openai.generation import AnswerHead

__all__ = ["Vectors", "create_embeddings", "embed"]


async def create_embeddings(request: Request) -> Response:
    """Turn texts into vectors."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    if (backend := service.backend_of(body)) is not None:
        return await backend.forward(request, body)
    wanted = parsed(request, body, parse_embeddings_request, service.limits.for_requests())
    vectors = await embed(request, wanted)
    answer = embedding_list(
        vectors.model,
        vectors.values,
        num_tokens=vectors.num_tokens,
        is_base64=wanted.is_base64,
    )
    return json_response(answer)


@dataclass(frozen=True, slots=True)
class Vectors:
    """What an encoder made of texts.

    Attributes:
        model: Its name.
        values: One vector for each text, in order.
        num_tokens: Of all texts, special ones included.
    """

    model: str
    values: NDArray[np.float32]
    num_tokens: int


async def embed(request: Request, wanted: EmbeddingsRequest) -> Vectors:
    """Turn texts into vectors, whatever the API.

    Raises:
        YearlingError: the model is not served, not ready, no encoder, or cannot take the texts.
    """
    service = service_of(request)
    model = service.models.get(wanted.model)
    width = model.check_embeds()
    check_dimensions(wanted.dimensions, width)
    model.check_takes_work()
    if not wanted.inputs:
        return Vectors(model.name, np.empty((0, width), np.float32), 0)
    inputs = await asyncio.to_thread(_encode, model, wanted)
    if wanted.user is not None:
        log_user(wanted.user)
    work = EmbeddingRequest(AnswerHead.new_id("embd-"), inputs)
    async with service.generation(model, [work]) as generation:
        vectors = await unless_client_leaves(request, _collect(generation, width))
    service.metrics.embedded_inputs.labels(model.name).inc(len(inputs))
    return Vectors(model.name, shorten(vectors, wanted.dimensions), work.num_prompt_tokens)


def _encode(model: ServedModel, wanted: EmbeddingsRequest) -> list[list[int]]:
    """Tokenize texts, and check each input alone and all together."""
    inputs: list[list[int]] = []
    num_tokens = 0
    for index, text in enumerate(wanted.inputs):
        where = wanted.place(index)
        if isinstance(text, str):
            tokens = _cut(model, text) if wanted.is_cut else model.encode_input(text, where)
        else:
            check_ids(model, text, where)
            tokens = list(text)
        _check_length(model, len(tokens), where)
        num_tokens += len(tokens)
        if num_tokens > model.limits.input_tokens:
            raise RequestError(
                f"input holds more than {model.limits.input_tokens} tokens, the limit of one "
                f"request, from {where} on: send the rest in another.",
                parameter=where,
            )
        inputs.append(tokens)
    return inputs


def _cut(model: ServedModel, text: str) -> list[int]:
    """As many of a text's tokens as the model takes, with the special ones around them."""
    wrap = model.tokenizer.wrap
    return wrap(model.tokenizer.encode(text)[: model.context - len(wrap([]))])


def _check_length(model: ServedModel, num_tokens: int, where: str) -> None:
    if num_tokens > model.context:
        raise ContextLengthError(
            f"{where} has {num_tokens} tokens, special ones included, but {model.name} takes "
            f"{model.context} at most. Shorten it, or cut it into several texts.",
            parameter=where,
        )


async def _collect(generation: Generation, width: int) -> NDArray[np.float32]:
    """Wait for the vectors: (N, width)."""
    vectors = b""
    while not generation.is_done:
        item = await generation.next_event(float("inf"))
        if item is not None:
            vectors += item[1].vectors
    return np.frombuffer(vectors, "<f4").reshape(-1, width)
