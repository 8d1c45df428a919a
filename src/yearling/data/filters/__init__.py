"""Filters: what takes rows out on purpose; one file each, its stem the word in YAML.

A filter sees every example once, in the order of the rows, and says of each whether it goes.
What it takes out is in the ledger under its name.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from yearling.core.config import Config
from yearling.core.registry import Registry
from yearling.data.examples import Example
from yearling.data.rows import RowId

__all__ = ["Filter", "FilterKind", "Rejection", "filters"]

FilterConfig = TypeVar("FilterConfig", bound=Config)


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a filter takes a row out.

    Attributes:
        reason: Completes "dropped because"; the same words for the same cause.
        detail: What is particular to this row, such as the row it repeats.
    """

    reason: str
    detail: str = ""


Filter = Callable[[RowId, Example], Rejection | None]
"""Judges one example; None keeps it. It may remember the examples before."""


@dataclass(frozen=True)
class FilterKind(Generic[FilterConfig]):
    """A filter as the registry holds it.

    Attributes:
        summary: One sentence.
        config: Its options.
        build: Makes it for one pass over the data.
        source: Paper, where there is one.
    """

    summary: str
    config: type[FilterConfig]
    build: Callable[[FilterConfig], Filter]
    source: str = ""


filters: Registry[FilterKind[Any]] = Registry("filter", __name__, "yearling.filters")
"""Every filter, by the name of its file."""
