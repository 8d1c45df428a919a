"""Rows that say word for word what an earlier row says.

Duplicates teach a model to repeat them, and one on either side of a split makes validation lie.
Equal are rows with the same roles, texts and tools; `is_loose` also takes rows for equal that
differ only in case, spaces and punctuation. Memory: about 150 bytes a row.
"""

from pydantic import Field

from yearling.core.config import Config
from yearling.data.content import content_hash, loose_hash
from yearling.data.examples import Example
from yearling.data.filters import Filter, FilterKind, Rejection, filters
from yearling.data.rows import RowId

__all__ = ["ExactDuplicatesConfig", "build", "kind"]


class ExactDuplicatesConfig(Config):
    """How equal rows must be."""

    is_loose: bool = Field(
        default=False, description="Whether case, spaces and punctuation make no difference."
    )


def build(config: ExactDuplicatesConfig) -> Filter:
    """Make the filter; the first of equal rows stays."""
    seen: dict[bytes, RowId] = {}
    hash_of = loose_hash if config.is_loose else content_hash

    def judge(row: RowId, example: Example) -> Rejection | None:
        first = seen.setdefault(hash_of(example)[:16], row)
        return None if first is row else Rejection("it repeats an earlier row", f"as {first}")

    return judge


kind = filters.register(
    FilterKind(
        summary="takes out rows that repeat an earlier one",
        config=ExactDuplicatesConfig,
        build=build,
    ),
    __name__,
)
