"""POST /tokenize and /detokenize."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from yearling.server.body import read_json
from yearling.server.lenience import parsed
from yearling.server.models import ServedModel
from yearling.server.routes.answering import check_ids, json_response, service_of
from yearling.wire.openai.tokenization import (
    TokenizeRequest,
    parse_detokenize_request,
    parse_tokenize_request,
)

__all__ = ["detokenize", "tokenize"]


async def tokenize(request: Request) -> Response:
    """Give the token ids of a text or of a rendered conversation."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    wanted = parsed(request, body, parse_tokenize_request, service.limits.for_requests())
    model = service.models.get(wanted.model)
    tokens = await asyncio.to_thread(_encode, model, wanted)
    answer: dict[str, Any] = {
        "count": len(tokens),
        "max_model_len": model.context,
        "tokens": tokens,
    }
    if wanted.has_token_texts:
        texts = [model.tokenizer.token_bytes(token) for token in tokens]
        answer["token_strs"] = [text.decode("utf-8", "replace") for text in texts]
    return json_response(answer)


async def detokenize(request: Request) -> Response:
    """Give the text of token ids, control tokens included."""
    service = service_of(request)
    body = await read_json(request, service.limits)
    wanted = parsed(request, body, parse_detokenize_request)
    model = service.models.get(wanted.model)
    check_ids(model, wanted.tokens, "tokens")
    text = await asyncio.to_thread(model.tokenizer.decode, wanted.tokens, skip_special=False)
    return json_response({"prompt": text})


def _encode(model: ServedModel, wanted: TokenizeRequest) -> list[int]:
    if wanted.messages is not None:
        return model.encode_chat(
            wanted.messages, add_generation_prompt=wanted.adds_generation_prompt
        )
    return model.encode_text(wanted.prompt or "", add_special_tokens=wanted.adds_special_tokens)
