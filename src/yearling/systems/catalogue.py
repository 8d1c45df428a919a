"""The whole list: every system of the year with its state and its headline."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any

from yearling.core.errors import CatalogueError
from yearling.systems.fingerprint import changed_modules
from yearling.systems.index import IndexRow, find_row, read_index
from yearling.systems.result import RESULTS, Result, read_result
from yearling.systems.runner import sources_of
from yearling.systems.system import System, entry_name, systems

__all__ = ["Listing", "State", "find_listing", "list_systems"]


class State(StrEnum):
    """How far a system is.

    `verified`: measured, every check holds, the ablation breaks what it must, and nothing that
    the result depends on has changed since. `stale`: the same, but something has changed.
    `runs`: built, without such a result. `missing`: not built.
    """

    VERIFIED = "verified"
    STALE = "stale"
    RUNS = "runs"
    MISSING = "missing"


@dataclass(frozen=True)
class Listing:
    """A system in the list: its row, its code when it is built, its result when there is one."""

    row: IndexRow
    system: System | None = None
    result: Result | None = None

    @cached_property
    def state(self) -> State:
        """How far the system is."""
        if self.system is None:
            return State.MISSING
        if self.result is None or not self._is_complete or self.result.problems(self.system):
            return State.RUNS
        return State.STALE if self.changed else State.VERIFIED

    @cached_property
    def changed(self) -> list[str]:
        """Modules that have changed since the result was measured."""
        if self.system is None or self.result is None:
            return []
        return changed_modules(self.result.sources, sources_of(self.system))

    @property
    def measured(self) -> float | None:
        """Mean of the headline over seeds, to six digits."""
        if self.system is None or self.result is None or not self._is_complete:
            return None
        values = self.result.figures[self.system.checks[0].name]
        return float(f"{sum(values) / len(values):.6g}")

    @property
    def claim(self) -> str:
        """What its authors say it does."""
        return self.row.claim if self.system is None else self.system.claim

    def as_json(self) -> dict[str, Any]:
        """Give the object that `yearling systems --json` prints; what is not there is null."""
        system, result = self.system, self.result
        published = None if system is None else system.published
        row = asdict(self.row)
        return {
            **{name: row[name] for name in ("slug", "name", "name_zh", "month", "kind", "area")},
            "state": self.state.value,
            "version": None if result is None else result.version,
            "claim": self.claim,
            "published": None if published is None else f"{published.figure} ({published.source})",
            "measured": self.measured,
            "unit": None if system is None else system.checks[0].unit,
            "waits_for": self.row.waits_for if system is None else None,
        }

    @property
    def _is_complete(self) -> bool:
        """Whether the result has what the checks of today name, from enough seeds."""
        if self.system is None or self.result is None:
            return False
        return (
            {check.name for check in self.system.checks} <= set(self.result.figures)
            and set(self.system.ablation.breaks) <= set(self.result.ablated)
            and set(self.system.seeds) <= set(self.result.seeds)
        )


def list_systems(
    *, area: str | None = None, state: State | None = None, results: Path = RESULTS
) -> list[Listing]:
    """Give the systems of the year in its order.

    Args:
        area: Only those of an area.
        state: Only those in a state.
        results: Folder of the committed results.

    Raises:
        CatalogueError: no system is in such an area.
    """
    rows = read_index()
    areas = sorted({row.area for row in rows})
    if area is not None and area not in areas:
        raise CatalogueError(f"no system is in the area {area!r}. Areas: {', '.join(areas)}.")
    built = set(systems.names())
    listings = [_listing(row, built, results) for row in rows if area in (None, row.area)]
    return [listing for listing in listings if state in (None, listing.state)]


def find_listing(slug: str, results: Path = RESULTS) -> Listing:
    """Give one system.

    Raises:
        CatalogueError: there is none of that name; the message names the nearest.
    """
    return _listing(find_row(slug), set(systems.names()), results)


def _listing(row: IndexRow, built: set[str], results: Path) -> Listing:
    name = entry_name(row.slug)
    if name not in built:
        return Listing(row)
    return Listing(row, systems.get(name), read_result(row.slug, results))
