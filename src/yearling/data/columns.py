"""A row's columns as a schema takes them: by spelling, checked, and remembered as used."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from yearling.core.errors import DataError

__all__ = ["Columns", "json_list", "present"]

_SHOWN_CHARACTERS = 60


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out columns without a value: null, and the NaN that data frames write for it."""
    # A column that is NaN is the only value that differs from itself.
    return {name: value for name, value in values.items() if value is not None and value == value}


class Columns:
    """The columns of one row that have a value.

    Attributes:
        unused: Columns that nothing has asked for yet, and fields of messages that nothing reads,
            such as `messages[].timestamp`.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = present(values)
        self.unused = set(self._values)

    def has(self, *spellings: str) -> bool:
        """Say whether a column of one of these names has a value."""
        return any(name in self._values for name in spellings)

    def take(self, *spellings: str) -> tuple[str, Any]:
        """Give the name and the value of the first spelling there is.

        Raises:
            DataError: there is none.
        """
        for name in spellings:
            if name in self._values:
                self.unused.discard(name)
                return name, self._values[name]
        wanted = " or ".join(repr(name) for name in spellings)
        raise DataError(f"column {wanted} is missing; the row has {self.found()}.")

    def text(self, *spellings: str) -> str:
        """Give a text that must be there and say something.

        Raises:
            DataError: the column is missing, not text, or empty.
        """
        name, value = self.take(*spellings)
        if not isinstance(value, str):
            raise DataError(f"column {name!r} must be text; it is {_short(value)}.")
        if not value.strip():
            raise DataError(f"column {name!r} is empty.")
        return value

    def optional_text(self, *spellings: str) -> str:
        """Give a text, or an empty one where there is no column or nothing in it.

        Raises:
            DataError: the column is not text.
        """
        if not self.has(*spellings):
            return ""
        name, value = self.take(*spellings)
        if not isinstance(value, str):
            raise DataError(f"column {name!r} must be text; it is {_short(value)}.")
        return value if value.strip() else ""

    def optional_list(self, name: str) -> Sequence[Any]:
        """Give a list, or an empty one where there is no column or nothing in it.

        Raises:
            DataError: the column holds something else.
        """
        if not self.has(name):
            return ()
        _, value = self.take(name)
        return () if value == "" else json_list(value, name)

    def found(self) -> str:
        """Name the columns that have a value, for messages."""
        return ", ".join(repr(name) for name in self._values) or "no column with a value"


def json_list(value: Any, name: str) -> Sequence[Any]:
    """Take a list, or the JSON text of one, as tables without nested columns hold it.

    Raises:
        DataError: it is neither.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise DataError(
                f"column {name!r} must be a list; its text is not JSON: {error}."
            ) from None
    if not isinstance(value, list | tuple):
        raise DataError(f"column {name!r} must be a list; it is {_short(value)}.")
    return value


def _short(value: object) -> str:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARACTERS:
        shown = shown[:_SHOWN_CHARACTERS] + "…"
    return f"{type(value).__name__} {shown}"
