"""Reading JSON that nobody trusts: strict where Python's parser is generous.

Python's `json` takes NaN and Infinity, turns 1e999 into infinity, lets a repeated key win
silently, raises odd errors on deep nesting and long numbers, and passes lone surrogates that
fail much later in a tokenizer. Here each of them is a `RequestError` that says what and where.
"""

import json
import math
import re
from typing import Any, NoReturn

from yearling.core.errors import RequestError
from yearling.wire.limits import RequestLimits

__all__ = ["parse_json_object"]


def parse_json_object(body: bytes, limits: RequestLimits) -> dict[str, Any]:
    """Parse a request body that must be one JSON object.

    Raises:
        RequestError: the body is not strict JSON in UTF-8, is nested too deep, repeats a key,
            holds a number out of range or a lone surrogate, or is not an object.
    """
    text = _text(body)
    value = _parse(text, limits)
    if not isinstance(value, dict):
        raise RequestError(f"The body must be a JSON object, not {_kind(value)}.")
    _check_depth(value, limits.json_depth)
    if _SURROGATE.search(text):
        _check_text(value)
    return value


# UTF-8 cannot hold a surrogate, so a lone one can only come from an escape.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def _text(body: bytes) -> str:
    if not body.strip():
        raise RequestError("The body is empty; it must be a JSON object.")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"The body is not UTF-8: byte 0x{body[error.start]:02x} at offset {error.start}."
        ) from None
    if text.startswith("\ufeff"):
        raise RequestError("The body starts with a byte order mark; send JSON without one.")
    return text


def _parse(text: str, limits: RequestLimits) -> object:
    def parse_integer(digits: str) -> int:
        if len(digits.lstrip("-")) > limits.integer_digits:
            raise RequestError(
                f"The body holds an integer of {len(digits.lstrip('-'))} digits; "
                f"{limits.integer_digits} is the limit."
            )
        return int(digits)

    try:
        return json.loads(
            text,
            parse_int=parse_integer,
            parse_float=_parse_float,
            parse_constant=_refuse_constant,
            object_pairs_hook=_build_object,
        )
    except json.JSONDecodeError as error:
        raise RequestError(
            f"The body is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}."
        ) from None
    except RecursionError:
        raise _too_deep(limits.json_depth) from None


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise RequestError(f"The body holds a number out of range: {digits[:40]}.")
    return number


def _refuse_constant(name: str) -> NoReturn:
    raise RequestError(f"The body holds {name}, which is not JSON.")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    built = dict(pairs)
    if len(built) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise RequestError(f"The body repeats the key {key[:64]!r}.")
            seen.add(key)
    return built


def _check_depth(root: dict[str, Any], max_depth: int) -> None:
    """Bound the depth level by level, without recursion."""
    level: list[Any] = [root]
    for _ in range(max_depth):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise _too_deep(max_depth)


def _check_text(value: object) -> None:
    """Refuse lone surrogates; the depth is bounded already."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            raise RequestError(
                f"The body holds a lone surrogate \\u{ord(value[error.start]):04x} in a string; "
                "surrogates must come in pairs."
            ) from None
    elif isinstance(value, dict):
        for key, child in value.items():
            _check_text(key)
            _check_text(child)
    elif isinstance(value, list):
        for child in value:
            _check_text(child)


def _too_deep(max_depth: int) -> RequestError:
    return RequestError(f"The body is nested deeper than {max_depth} levels.")


def _kind(value: object) -> str:
    names = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
