"""Requests for vectors, at /api/embed and at the older /api/embeddings, and their answers.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md; every field is honoured, every
option honoured or in `REFUSED_EMBED_OPTIONS`.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.wire.limits import RequestLimits
from yearling.wire.ollama.request import (
    REFUSED_OPTIONS,
    KeepAlive,
    Options,
    check_context,
    read_options,
)
from yearling.wire.openai.embeddings import EmbeddingsRequest
from yearling.wire.openai.fields import RefusedField, read_fields
from yearling.wire.openai.inputs import read_inputs

__all__ = [
    "REFUSED_EMBED_OPTIONS",
    "EmbedBody",
    "EmbedOptions",
    "OlderEmbedBody",
    "embed_answer",
    "parse_embed",
    "parse_older_embed",
]

_STRICT = ConfigDict(frozen=True, extra="forbid", strict=True)


class EmbedOptions(BaseModel):
    """The options that mean something to an encoder."""

    model_config = _STRICT

    num_ctx: int | None = Field(default=None, ge=1, description="At most what the server has.")


REFUSED_EMBED_OPTIONS: Mapping[str, RefusedField] = {
    **REFUSED_OPTIONS,
    **{
        name: RefusedField("an encoder chooses no tokens")
        for name in Options.model_fields
        if name not in EmbedOptions.model_fields
    },
}


class _Body(BaseModel):
    """What both have."""

    model_config = _STRICT

    model: str = Field(min_length=1, max_length=256, description="Name as /api/tags lists it.")
    options: dict[str, Any] | None = Field(default=None, description="`num_ctx` alone.")
    keep_alive: KeepAlive = Field(
        default=None, description="Without effect: the server says how long models stay loaded."
    )


class EmbedBody(_Body):
    """The fields of /api/embed."""

    input: Any = Field(default=None, description="A text, or a list of texts; none gives none.")
    truncate: bool | None = Field(
        default=None, description="Whether a text that is too long loses its end; it does."
    )
    dimensions: int | None = Field(
        default=None, ge=1, description="Keep so many leading numbers of each vector."
    )


class OlderEmbedBody(_Body):
    """The fields of /api/embeddings."""

    prompt: str = Field(default="", description="A text; none gives no numbers.")


def parse_embed(body: Mapping[str, Any], limits: RequestLimits, context: int) -> EmbeddingsRequest:
    """Check a request and put it in internal terms; it may be without inputs.

    Args:
        body: As it came.
        limits: Of requests.
        context: Tokens that the model takes.

    Raises:
        RequestError: a field is wrong, unknown or not supported; `parameter` names it.
    """
    fields = read_fields(EmbedBody, body, {})
    return _request(
        fields,
        context,
        inputs=_texts(fields.input, limits),
        dimensions=fields.dimensions,
        is_cut=fields.truncate is not False,
    )


def parse_older_embed(
    body: Mapping[str, Any], limits: RequestLimits, context: int
) -> EmbeddingsRequest:
    """The same for the older route, which takes one text and cuts none; see `parse_embed`."""
    fields = read_fields(OlderEmbedBody, body, {})
    inputs = (fields.prompt,) if fields.prompt else ()
    return _request(fields, context, inputs=inputs, dimensions=None, field="prompt")


def embed_answer(
    model: str, vectors: list[list[float]], *, num_tokens: int, nanoseconds: int
) -> dict[str, Any]:
    """The body of an answer of /api/embed."""
    return {
        "model": model,
        "embeddings": vectors,
        "total_duration": nanoseconds,
        "load_duration": 0,
        "prompt_eval_count": num_tokens,
    }


def _texts(given: object, limits: RequestLimits) -> tuple[Any, ...]:
    texts = [given] if isinstance(given, str) else given
    if texts in (None, [], [""]):
        return ()
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise RequestError("input must be a text or a list of texts.", parameter="input")
    return read_inputs(texts, "input", limits.inputs)


def _request(fields: _Body, context: int, **how: Any) -> EmbeddingsRequest:
    options = read_options(EmbedOptions, fields.options, REFUSED_EMBED_OPTIONS)
    check_context(options.num_ctx, context)
    request = EmbeddingsRequest(model=fields.model, is_base64=False, user=None, **how)
    request.check_inputs()
    return request
