"""The way from prompts to an answer that chat completions and completions share."""

import hashlib
from collections.abc import Collection, Sequence
from contextlib import AsyncExitStack
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import ContextLengthError, RequestError, UnsupportedError
from yearling.models.tokenizer import Tokenizer
from yearling.server.beams import BeamEngine
from yearling.server.generation import Generation
from yearling.server.models import ServedModel
from yearling.server.service import Service
from yearling.server.streaming import (
    OPENAI,
    AnswerFrames,
    EventStream,
    Framing,
    unless_client_leaves,
)
from yearling.serving.beams import no_beams
from yearling.serving.request import GenerationRequest, OutputEvent, SamplingParams
from yearling.wire.openai.answers import TokenTexts
from yearling.wire.openai.beams import Beams

__all__ = [
    "AnswerFold",
    "answer",
    "build_requests",
    "cache_salt",
    "check_ids",
    "check_room",
    "check_sampling",
    "json_response",
    "service_of",
    "token_texts",
]

# How long the status line waits for the engine's first word: an early error gets its own status,
# a long prompt gets a stream that shows signs of life.
_FIRST_EVENT_SECONDS = 5.0


class AnswerFold(AnswerFrames, Protocol):
    """Turns events into chunks or into one body."""

    def add(self, index: int, event: OutputEvent) -> object:
        """Take an event in without making chunks of it."""
        ...

    def body(self) -> dict[str, Any]:
        """The whole answer, after the last event."""
        ...


def service_of(request: Request) -> Service:
    """The server's state."""
    service: Service = request.app.state.service
    return service


def json_response(body: Any) -> Response:
    """An answer of JSON."""
    return Response(msgspec.json.encode(body), media_type="application/json")


def token_texts(tokenizer: Tokenizer) -> TokenTexts:
    """The view of a tokenizer that log-probabilities need."""
    return TokenTexts(tokenizer.token_bytes, tokenizer.is_special)


def cache_salt(account: str, cache_key: str) -> str:
    """The salt of a request's cached blocks: the account's, narrowed by the client's own key.

    >>> cache_salt("", "")
    ''
    """
    if not cache_key:
        return account
    return hashlib.sha256(f"{account}\0{cache_key}".encode()).hexdigest()[:32]


def build_requests(
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    *,
    request_id: str,
    num_choices: int,
    salt: str,
    is_prompt_only: bool = False,
) -> list[GenerationRequest]:
    """One engine request per prompt and choice; choice i draws from seed + i."""
    return [
        GenerationRequest(
            request_id=f"{request_id}-{index * num_choices + choice}",
            prompt=prompt,
            sampling=_seeded(sampling, choice),
            salt=salt,
            is_prompt_only=is_prompt_only,
        )
        for index, prompt in enumerate(prompts)
        for choice in range(num_choices)
    ]


def _seeded(sampling: SamplingParams, choice: int) -> SamplingParams:
    if choice == 0 or sampling.seed is None:
        return sampling
    wrapped = (sampling.seed + choice + 2**63) % 2**64 - 2**63
    return sampling.model_copy(update={"seed": wrapped})


def check_sampling(model: ServedModel, sampling: SamplingParams) -> None:
    """Refuse token ids that the model does not have, and guides that take too long to compile.

    Raises:
        RequestError: `logit_bias` or `stop_token_ids` names one, or a guide is too large.
    """
    for name in ("logit_bias", "stop_token_ids"):
        check_ids(model, getattr(sampling, name), name)
    guide = sampling.guide
    size = 0 if guide is None else len(guide.model_dump_json(exclude_none=True))
    if guide is not None and size > model.limits.guide_bytes:
        raise RequestError(
            f"{guide.field} has {size} bytes; {model.limits.guide_bytes} is the limit.",
            parameter=guide.field,
        )


def check_ids(model: ServedModel, ids: Collection[int], parameter: str) -> None:
    """Refuse token ids that the model does not have.

    Raises:
        RequestError: an id is outside the vocabulary.
    """
    worst = max(ids, default=0)
    if worst >= model.tokenizer.vocabulary_size or min(ids, default=0) < 0:
        raise RequestError(
            f"{parameter} holds token id {worst if worst > 0 else min(ids)}; {model.name} knows "
            f"ids from 0 to {model.tokenizer.vocabulary_size - 1}.",
            parameter=parameter,
        )


def check_room(
    model: ServedModel,
    num_prompt: int,
    sampling: SamplingParams,
    *,
    parameter: str,
    is_prompt_only: bool = False,
) -> None:
    """Refuse a prompt that does not fit together with its answer.

    Raises:
        ContextLengthError: prompt and `max_tokens` are longer than the context window.
    """
    wanted = 0 if is_prompt_only else sampling.max_tokens or 1
    if num_prompt + wanted <= model.context:
        return
    advice = "Shorten the prompt."
    if num_prompt < model.context:
        advice = f"Shorten the prompt, or ask for at most {model.context - num_prompt} tokens."
    raise ContextLengthError(
        f"The prompt has {num_prompt} tokens and the answer may take {wanted}, together more "
        f"than the context window of {model.context} tokens. {advice}",
        parameter=parameter,
    )


async def answer(
    request: Request,
    model: ServedModel,
    requests: Sequence[GenerationRequest],
    fold: AnswerFold,
    *,
    is_streamed: bool,
    framing: Framing = OPENAI,
    beams: Beams | None = None,
) -> Response:
    """Run requests and answer with a stream or a whole body.

    Raises:
        YearlingError: the requests are refused, or fail before the answer has begun.
        ClientLeftError: the client left before the answer had begun.
    """
    service = service_of(request)
    engine = None if beams is None else _searching(model, requests, beams)
    async with AsyncExitStack() as stack:
        generation = await stack.enter_async_context(service.generation(model, requests, engine))
        if not is_streamed:
            await unless_client_leaves(request, _collect(generation, fold))
            return json_response(fold.body())
        first = await unless_client_leaves(request, generation.next_event(_FIRST_EVENT_SECONDS))
        return EventStream(
            generation,
            fold,
            first=first,
            owner=stack.pop_all(),
            silence_seconds=service.limits.stream_silence_seconds,
            framing=framing,
        )


def _searching(
    model: ServedModel, requests: Sequence[GenerationRequest], beams: Beams
) -> BeamEngine:
    if model.reads_prompts_apart:
        raise UnsupportedError(no_beams(model.name), parameter="use_beam_search")
    if any(request.sampling.stop for request in requests):
        raise UnsupportedError(
            f"{model.name} ends its turns by a text, and a beam search knows ends by their tokens "
            "alone. Leave use_beam_search out, or use /v1/completions.",
            parameter="use_beam_search",
        )
    return BeamEngine(
        model.engine,
        requests,
        beams,
        ends=model.end_token_ids,
        context=model.context,
        tokenizer=model.tokenizer,
    )


async def _collect(generation: Generation, fold: AnswerFold) -> None:
    while not generation.is_done:
        item = await generation.next_event(float("inf"))
        if item is not None:
            fold.add(*item)
