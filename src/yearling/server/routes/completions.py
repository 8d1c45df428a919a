"""POST /v1/completions."""

import asyncio
import time

from starlette.requests import Request
from starlette.responses import Response

from yearling.core.errors import RequestError
from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.log import log_user
from yearling.server.models import ServedModel
from yearling.server.routes.answering import (
    answer,
    build_requests,
    check_ids,
    check_room,
    check_sampling,
    service_of,
)
from yearling.wire.openai.answers import CompletionFold, EchoedPrompt
from yearling.wire.openai.completions import CompletionRequest, parse_completion_request
from yearling.wire.openai.generation import AnswerHead

__all__ = ["create_completion"]


async def create_completion(request: Request) -> Response:
    """Continue texts, or score them."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    if (backend := service.backend_of(body)) is not None:
        return await backend.forward(request, body)
    limits = service.limits.for_requests()
    completion = parsed(request, body, parse_completion_request, limits)
    model = service.models.get(completion.model)
    model.check_generates()
    model.check_takes_work()
    check_sampling(model, completion.sampling)
    prompts = await asyncio.to_thread(_encode, model, completion)
    if completion.user is not None:
        log_user(completion.user)
    head = AnswerHead(
        id=AnswerHead.new_id("cmpl-"),
        created=int(time.time()),
        model=model.name,
        fingerprint=model.fingerprint,
        has_usage_chunk=completion.has_usage_chunk,
    )
    requests = build_requests(
        [prompt.tokens for prompt in prompts],
        completion.sampling,
        request_id=head.id,
        num_choices=completion.num_choices,
        salt=request.state.salt,
        is_prompt_only=completion.is_prompt_only,
    )
    fold = CompletionFold(
        head,
        prompts,
        is_echoed=completion.is_echoed,
        num_choices=completion.num_choices,
        num_returned=completion.num_returned,
        num_logprobs=completion.num_logprobs,
        token_bytes=model.tokenizer.token_bytes,
    )
    return await answer(
        request,
        model,
        requests,
        fold,
        is_streamed=completion.is_streamed,
        beams=completion.beams,
    )


def _encode(model: ServedModel, completion: CompletionRequest) -> list[EchoedPrompt]:
    prompts = []
    for prompt in completion.prompts:
        if isinstance(prompt, str):
            encoded = EchoedPrompt(prompt, model.encode_text(prompt))
        else:
            check_ids(model, prompt, "prompt")
            encoded = EchoedPrompt(model.tokenizer.decode(list(prompt), skip_special=False), prompt)
        if not encoded.tokens:
            raise RequestError("prompt is empty: it holds no token.", parameter="prompt")
        check_room(
            model,
            len(encoded.tokens),
            completion.sampling,
            is_prompt_only=completion.is_prompt_only,
            parameter="prompt",
        )
        prompts.append(encoded)
    return prompts
