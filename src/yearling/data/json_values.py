"""One JSON value as a row's columns, strictly: what JSON allows and text can hold."""

import json
from typing import Any, NoReturn

from yearling.data.lines import NOT_UTF_8
from yearling.data.rows import BadRow, Row, RowId

__all__ = ["NOT_JSON", "row_of_json", "row_of_value"]

NOT_JSON = "it is not valid JSON"
_NOT_AN_OBJECT = "it is JSON, but no object with columns"


class _RefusedError(ValueError):
    """JSON that Python would take, but with something lost or made up."""


def row_of_json(row: RowId, text: bytes, place: str = "") -> Row | BadRow:
    """Read a JSON object.

    Args:
        place: Where in the file it begins, where the row's number does not say.
    """
    try:
        value = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
        _refuse_half_characters(text, value)
    except UnicodeDecodeError as error:
        return BadRow(row, NOT_UTF_8, _detail(place, f"byte {error.start} of the row"))
    except json.JSONDecodeError as error:
        return BadRow(row, NOT_JSON, _detail(place, f"{error.msg} at character {error.pos + 1}"))
    except RecursionError:
        return BadRow(row, NOT_JSON, _detail(place, "its values are nested too deep"))
    except ValueError as error:
        return BadRow(row, NOT_JSON, _detail(place, str(error)))
    return row_of_value(row, value, place)


def row_of_value(row: RowId, value: Any, place: str = "") -> Row | BadRow:
    """Take a value for a row, if it is an object with columns."""
    if not isinstance(value, dict):
        return BadRow(row, _NOT_AN_OBJECT, _detail(place, f"it is of type {type(value).__name__}"))
    return Row(row, value)


def _detail(place: str, detail: str) -> str:
    return f"{place}: {detail}" if place else detail


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _RefusedError(f"the key {twice!r} stands twice in one object")
    return values


def _refuse_constant(word: str) -> NoReturn:
    raise _RefusedError(f"{word} is no JSON value")


def _refuse_half_characters(text: bytes, value: object) -> None:
    """Refuse an escaped surrogate without its partner: no encoding can write it again."""
    if b"\\ud" in text or b"\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError:
            raise _RefusedError("a text holds half of a surrogate pair") from None
