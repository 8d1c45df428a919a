"""Which fields of OpenAI's requests are refused by name, and reading the others strictly."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from yearling.core.errors import RequestError, UnsupportedError

__all__ = [
    "REFUSED_CHAT_FIELDS",
    "REFUSED_COMPLETION_FIELDS",
    "RefusedField",
    "is_same",
    "read_fields",
    "validated",
    "validated_as",
    "validated_at",
]

_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class RefusedField:
    """A field this server does not act on.

    Attributes:
        reason: What is missing, as the end of the error message.
        harmless: Values that ask for nothing, accepted beside null.
    """

    reason: str
    harmless: tuple[object, ...] = ()


_OLD_TOOLS = "it is the old form of tools"
_NO_STORE = "the server keeps no completions"

REFUSED_CHAT_FIELDS: Mapping[str, RefusedField] = {
    "audio": RefusedField("no model here speaks"),
    "chat_template_kwargs": RefusedField("templates take no arguments in this version", ({},)),
    "function_call": RefusedField(_OLD_TOOLS, ("none", "auto")),
    "functions": RefusedField(_OLD_TOOLS, ([],)),
    "metadata": RefusedField(_NO_STORE, ({},)),
    "modalities": RefusedField("models here write text only", (["text"],)),
    "moderation": RefusedField("there is no moderation model"),
    "prediction": RefusedField("predicted outputs are not part of this version"),
    "prompt_cache_options": RefusedField(
        "prefixes are always cached, implicitly", ({}, {"mode": "implicit"})
    ),
    "prompt_cache_retention": RefusedField("cached prefixes live in memory only", ("in_memory",)),
    "reasoning_effort": RefusedField("no model here reasons before it answers", ("none",)),
    "service_tier": RefusedField("there is one tier", ("auto", "default")),
    "store": RefusedField(_NO_STORE, (False,)),
    "verbosity": RefusedField("models here have no such dial", ("medium",)),
    "web_search_options": RefusedField("the server does not search the web"),
}

REFUSED_COMPLETION_FIELDS: Mapping[str, RefusedField] = {
    "suffix": RefusedField("filling in the middle is not part of this version", ("",)),
}


def read_fields(
    model: type[_Model], body: Mapping[str, Any], refused: Mapping[str, RefusedField]
) -> _Model:
    """Read a body into a model of the fields that are honoured; null means unset.

    Raises:
        UnsupportedError: a refused field asks for something.
        RequestError: a field is unknown, missing or of the wrong type.
    """
    for name, field in refused.items():
        value = body.get(name)
        if value is not None and not any(is_same(value, other) for other in field.harmless):
            raise UnsupportedError(
                f"{name} is not supported: {field.reason}. Leave it out.", parameter=name
            )
    honoured = {
        name: value for name, value in body.items() if value is not None and name not in refused
    }
    # One at a time: pydantic would describe a hundred thousand.
    unknown = next((name for name in honoured if name not in model.model_fields), None)
    if unknown is not None:
        raise _unknown(unknown[:128])
    return validated(model, honoured)


def validated(model: type[_Model], fields: Mapping[str, Any]) -> _Model:
    """Validate, turning pydantic's error into ours with the field's path.

    Raises:
        RequestError: a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise _request_error(error.errors(include_url=False)[0], fields) from None


def validated_at(model: type[_Model], raw: Mapping[str, Any], where: str) -> _Model:
    """The same for a part of a body, whose place errors tell; null means unset.

    Raises:
        RequestError: a field is unknown, missing, of the wrong type or out of range.
    """
    try:
        return validated(model, {key: value for key, value in raw.items() if value is not None})
    except RequestError as error:
        parameter = f"{where}.{error.parameter}"
        raise type(error)(f"{where}: {error}", parameter=parameter) from None


def validated_as(
    model: type[_Model], fields: Mapping[str, Any], names: Mapping[str, str], prefix: str = ""
) -> _Model:
    """The same where a request calls fields otherwise; None means unset.

    Args:
        model: Of our own names.
        fields: By them.
        names: What the request calls those that it does not call so.
        prefix: What stands before the others there.

    Raises:
        RequestError: a field is of the wrong type or out of range; it bears the request's name.
    """
    try:
        return validated(model, {key: value for key, value in fields.items() if value is not None})
    except RequestError as error:
        ours = re.split(r"[.\[]", error.parameter or "")[0]
        if not ours:
            raise
        theirs = names.get(ours, prefix + ours)
        parameter = theirs + (error.parameter or "").removeprefix(ours)
        raise type(error)(theirs + str(error).removeprefix(ours), parameter=parameter) from None


def _request_error(detail: ErrorDetails, fields: Mapping[str, Any]) -> RequestError:
    path = _path(detail, fields)
    if detail["type"] == "extra_forbidden":
        return _unknown(path)
    if detail["type"] == "missing":
        return RequestError(f"{path} is required.", parameter=path)
    reason = detail["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    if not path:  # several fields together
        return RequestError(f"{reason}.", parameter=None)
    return RequestError(f"{path} is {_shown(detail['input'])}: {reason}.", parameter=path)


def _path(detail: ErrorDetails, fields: Mapping[str, Any]) -> str:
    """Where the fault lies in the request, without pydantic's names for kinds of a value."""
    value: Any = fields
    path = ""
    *_, last = detail["loc"] or ("",)
    for part in detail["loc"]:
        is_missing = detail["type"] == "missing" and part is last
        if isinstance(part, int) and isinstance(value, list | tuple):
            path, value = f"{path}[{part}]", value[part]
        elif isinstance(value, Mapping) and (part in value or is_missing):
            path, value = f"{path}.{part}", value.get(str(part))
    return path.removeprefix(".")[:128]


def _unknown(path: str) -> UnsupportedError:
    return UnsupportedError(
        f"{path} is not a field of this request; check its spelling, or leave it out.",
        parameter=path,
    )


def _shown(value: object) -> str:
    """A value for an error message: short, and without walking anything large."""
    if isinstance(value, list | dict | tuple):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)} entries"
    text = repr(value[:40]) if isinstance(value, str) else repr(value)
    return text[:60]


def is_same(left: object, right: object) -> bool:
    """Whether two values are equal and of one type: 0 is not false."""
    return type(left) is type(right) and left == right
