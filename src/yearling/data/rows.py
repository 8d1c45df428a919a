"""Rows as they are read: values with the place they came from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["BadRow", "Row", "RowId"]


class RowId(NamedTuple):
    """Where a row came from; sorts by file and place.

    Attributes:
        source: Path as it was given, or name of a hub's data set.
        number: Line of the file, or number of the row where files have no lines; from 1.
    """

    source: str
    number: int

    def __str__(self) -> str:
        """As an editor takes it: `file:line`."""
        return f"{self.source}:{self.number}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, not understood yet."""

    id: RowId
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read; `reason` completes "dropped because"."""

    id: RowId
    reason: str
    detail: str = ""
