"""Every system of the year: its names, its month, what it claims, and what it waits for."""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Literal

from yearling.core.errors import CatalogueError

__all__ = ["IndexRow", "find_row", "read_index"]

_INDEX = Path(__file__).with_name("index.toml")


@dataclass(frozen=True, slots=True)
class IndexRow:
    """A system as the index lists it, whether it is built or not.

    Attributes:
        slug: Its word on the command line.
        name: In English.
        name_zh: In Chinese where there is such a name, else as in English.
        month: Of 2023, 1 to 12, or `all`.
        kind: What sort of thing it is: `training method`, `agent`.
        area: Where a user would look for it: `training`, `media`.
        claim: What its authors say it does, in one sentence.
        waits_for: Parts of the platform that must be there before it can be built.
    """

    slug: str
    name: str
    name_zh: str
    month: int | Literal["all"]
    kind: str
    area: str
    claim: str
    waits_for: str


@cache
def read_index() -> tuple[IndexRow, ...]:
    """Give all rows, in the order of the year."""
    with _INDEX.open("rb") as file:
        return tuple(IndexRow(**row) for row in tomllib.load(file)["systems"])


def find_row(slug: str) -> IndexRow:
    """Give the row of a system.

    Raises:
        CatalogueError: there is none of that name; the message names the nearest.
    """
    rows = {row.slug: row for row in read_index()}
    if slug in rows:
        return rows[slug]
    near = get_close_matches(slug.lower(), rows, n=3, cutoff=0.5)
    hint = f"Nearest: {', '.join(near)}." if near else "`yearling systems` lists them."
    raise CatalogueError(f"no system is called {slug!r}. {hint}")
