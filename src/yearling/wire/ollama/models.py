"""Models as /api/tags, /api/ps and /api/show tell of them; what is not known is left out.

Source: https://github.com/ollama/ollama/blob/main/docs/api.md.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.wire.ollama.answers import utc_text
from yearling.wire.openai.fields import RefusedField, read_fields

__all__ = [
    "REFUSED_SHOW_FIELDS",
    "ModelFacts",
    "ShowBody",
    "model_description",
    "model_entry",
    "parse_show",
    "running_entry",
]

_AS_IT_IS = "models are shown as they are served"

REFUSED_SHOW_FIELDS: Mapping[str, RefusedField] = {
    "options": RefusedField(_AS_IT_IS, ({},)),
    "system": RefusedField(_AS_IT_IS, ("",)),
    "template": RefusedField(_AS_IT_IS, ("",)),
    "verbose": RefusedField("tensors and vocabularies are not shown", (False,)),
}


class ShowBody(BaseModel):
    """The fields of /api/show that are honoured."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    model: str | None = Field(
        default=None, max_length=256, description="Name as /api/tags lists it."
    )
    name: str | None = Field(default=None, max_length=256, description="An older name of model.")


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a server knows of a model.

    Attributes:
        name: As clients call it.
        created: Seconds since 1970.
        identity: Changes when its answers may.
        context: Tokens that it has.
        parent: The model that it is an adapter of, or None.
        format: Of its files, or None.
        family: Which describes it, or None.
        num_bytes: Size of its weights, or None.
        num_parameters: Or None.
        embedding_width: Numbers of a vector in an encoder, or None.
        template: By which it chats, or None.
        stops: Texts that end its answers.
    """

    name: str
    created: float
    identity: str
    context: int
    parent: str | None
    format: str | None
    family: str | None
    num_bytes: int | None
    num_parameters: int | None
    embedding_width: int | None
    template: str | None
    stops: tuple[str, ...]


def parse_show(body: Mapping[str, Any]) -> str:
    """The name of the model that is asked about.

    Raises:
        RequestError: there is none, or a field is unknown or not supported.
    """
    fields = read_fields(ShowBody, body, REFUSED_SHOW_FIELDS)
    if not (name := fields.model or fields.name):
        raise RequestError("model is required.", parameter="model")
    return name


def model_entry(facts: ModelFacts) -> dict[str, Any]:
    """A model as /api/tags lists it; its digest is of what tells it from others, not of a file."""
    size = {} if facts.num_bytes is None else {"size": facts.num_bytes}
    return {
        "name": facts.name,
        "model": facts.name,
        "modified_at": utc_text(facts.created),
        "digest": sha256(facts.identity.encode()).hexdigest(),
        "details": _details(facts),
        **size,
    }


def running_entry(facts: ModelFacts) -> dict[str, Any]:
    """A model as /api/ps lists it: its size there would be that of its memory."""
    kept = ("name", "model", "digest", "details")
    entry = model_entry(facts)
    return {key: entry[key] for key in kept} | {"context_length": facts.context}


def model_description(facts: ModelFacts) -> dict[str, Any]:
    """A model as /api/show tells of it."""
    parameters = [("num_ctx", facts.context), *(("stop", text) for text in facts.stops)]
    template = {} if facts.template is None else {"template": facts.template}
    return {
        "modified_at": utc_text(facts.created),
        "parameters": "\n".join(
            f"{name:<30} {json.dumps(value, ensure_ascii=False)}" for name, value in parameters
        ),
        "details": _details(facts),
        "model_info": _info(facts),
        "capabilities": _capabilities(facts),
        **template,
    }


def _details(facts: ModelFacts) -> dict[str, Any]:
    number = facts.num_parameters
    details = {
        "parent_model": facts.parent,
        "format": facts.format,
        "family": facts.family,
        "families": None if facts.family is None else [facts.family],
        "parameter_size": None if number is None else _short(number),
    }
    return {key: value for key, value in details.items() if value is not None}


def _info(facts: ModelFacts) -> dict[str, Any]:
    """What GGUF's metadata would say; its keys begin with the family, so there is one or none."""
    if facts.family is None:
        return {}
    info = {
        "general.architecture": facts.family,
        "general.parameter_count": facts.num_parameters,
        f"{facts.family}.context_length": facts.context,
        f"{facts.family}.embedding_length": facts.embedding_width,
    }
    return {key: value for key, value in info.items() if value is not None}


def _capabilities(facts: ModelFacts) -> list[str]:
    """What it can be asked for here; a model that has no template completes at /v1 alone."""
    if facts.embedding_width is not None:
        return ["embedding"]
    return [] if facts.template is None else ["completion", "tools"]


def _short(number: int) -> str:
    """A number of parameters as people say it.

    >>> [_short(number) for number in (7_241_732_096, 134_515_008, 12_000, 12)]
    ['7.2B', '134.52M', '12K', '12']
    """
    for unit, size, digits in (("B", 10**9, 1), ("M", 10**6, 2), ("K", 10**3, 0)):
        if number >= size:
            return f"{number / size:.{digits}f}{unit}"
    return str(number)
