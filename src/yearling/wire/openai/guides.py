"""What a request says its answer must be: OpenAI's `response_format`, and vLLM's `guided_…`.

Source: https://platform.openai.com/docs/guides/structured-outputs; vLLM's documentation of its
additional parameters of structured outputs.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from yearling.core.errors import RequestError
from yearling.serving.request import Guide
from yearling.wire.openai.fields import validated

__all__ = ["GuidedFields", "ResponseFormat", "guide_of", "json_guide"]

_ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


class _JsonSchema(BaseModel):
    """A schema with its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, max_length=64, description="Of what is described.")
    description: str | None = Field(default=None, description="What it is for; models see none.")
    schema_: dict[str, Any] | None = Field(
        default=None, alias="schema", description="JSON Schema; none allows any object."
    )
    strict: bool | None = Field(
        default=None, description="Answers hold to the schema whatever this says."
    )


class ResponseFormat(BaseModel):
    """OpenAI's way to ask for JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"] = Field(description="Of the answer.")
    json_schema: _JsonSchema | None = Field(default=None, description="With json_schema only.")


class GuidedFields(BaseModel):
    """vLLM's fields, of both generating endpoints."""

    guided_json: Any = Field(
        default=None, description="JSON Schema that the answer holds to, or its text."
    )
    guided_regex: str | None = Field(
        default=None, description="Expression that the whole answer matches."
    )
    guided_choice: list[str] | None = Field(
        default=None, min_length=1, description="Texts, one of which is the answer."
    )
    guided_grammar: str | None = Field(
        default=None, description="Lark grammar that the answer follows."
    )


def guide_of(fields: GuidedFields, response_format: ResponseFormat | None = None) -> Guide | None:
    """Give what the answer must be; None lets it be anything.

    Raises:
        RequestError: fields contradict each other, or say too little.
    """
    guides = [*_guided(fields), *_formatted(response_format)]
    if len(guides) > 1:
        first, second, *_ = guides
        raise RequestError(
            f"{second.field} and {first.field} both say what the answer must be: send one.",
            parameter=second.field,
        )
    return guides[0] if guides else None


def json_guide(schema: Mapping[str, Any] | None, field: str) -> Guide:
    """The guide of JSON that a schema describes, or of any object; errors name the field.

    Raises:
        RequestError: it is no schema.
    """
    return _guide("json_schema", _ANY_OBJECT if schema is None else schema, field)


def _guided(fields: GuidedFields) -> list[Guide]:
    found = []
    if fields.guided_json is not None:
        schema = _schema(fields.guided_json)
        found.append(_guide("json_schema", schema, "guided_json"))
    if fields.guided_regex is not None:
        found.append(_guide("regex", fields.guided_regex, "guided_regex"))
    if fields.guided_choice is not None:
        found.append(_guide("choice", tuple(fields.guided_choice), "guided_choice"))
    if fields.guided_grammar is not None:
        found.append(_guide("grammar", fields.guided_grammar, "guided_grammar"))
    return found


def _formatted(wanted: ResponseFormat | None) -> list[Guide]:
    if wanted is None or wanted.type == "text":
        _refuse_schema(wanted)
        return []
    if wanted.type == "json_object":
        _refuse_schema(wanted)
        return [json_guide(None, "response_format")]
    if wanted.json_schema is None:
        raise RequestError(
            "response_format.json_schema is required where the type is json_schema.",
            parameter="response_format.json_schema",
        )
    return [json_guide(wanted.json_schema.schema_, "response_format.json_schema.schema")]


def _refuse_schema(wanted: ResponseFormat | None) -> None:
    if wanted is not None and wanted.json_schema is not None:
        raise RequestError(
            f"response_format.json_schema is set, but the type is {wanted.type}, not json_schema.",
            parameter="response_format.json_schema",
        )


def _guide(way: str, value: object, field: str) -> Guide:
    try:
        return validated(Guide, {way: value, "field": field})
    except RequestError as error:
        raise RequestError(str(error).replace(way, field, 1), parameter=field) from None


def _schema(given: object) -> Mapping[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
            json.dumps(given, ensure_ascii=False).encode()  # lone surrogates are no text
        except (ValueError, RecursionError) as error:
            message = f"guided_json is no JSON: {str(error)[:100]}."
            raise RequestError(message, parameter="guided_json") from None
    if not isinstance(given, dict):
        raise RequestError("guided_json is no JSON object.", parameter="guided_json")
    return given
