"""The data ledger: rows in = kept + dropped + set aside, by reason, with the rows named.

Whoever decides a row's fate writes it down: readers and filters drop, the split sets aside, and
the last stage, which encodes rows, drops, truncates or keeps. A row that nobody has decided on is
pending; the books are closed when none is.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yearling.core.errors import DataError
from yearling.data.content import content_hash
from yearling.data.examples import Example
from yearling.data.rows import RowId

__all__ = ["Entry", "Ledger"]

_NAMED_ROWS = 20
_NAMED_IN_ERROR = 5
_logger = logging.getLogger(__name__)


@dataclass
class Entry:
    """Rows of one reason: how many, and the first of them with their details."""

    count: int = 0
    rows: list[tuple[RowId, str]] = field(default_factory=list)

    def add(self, row: RowId, detail: str) -> None:
        """Count a row, and name it while there is room."""
        self.count += 1
        if len(self.rows) < _NAMED_ROWS:
            self.rows.append((row, detail))

    def report(self) -> dict[str, Any]:
        """Give it as JSON values."""
        rows = [{"row": str(row), "detail": detail} for row, detail in self.rows]
        return {"count": self.count, "rows": rows}


class Ledger:
    """What became of every row of one pass over the data.

    >>> ledger = Ledger()
    >>> for line in (1, 2, 3):
    ...     ledger.enter()
    >>> ledger.drop(RowId("a.jsonl", 2), "the line is not JSON")
    >>> ledger.num_pending
    2

    Attributes:
        rows_in: Rows that were read, good or bad.
        kept: Rows that are used, truncated ones among them.
        set_aside: Good rows that belong to the other part of a split.
        lost: Rows dropped because they could not be used, by reason.
        filtered: Rows that a filter or a sample took out as it was asked to, by its name and
            reason; `max_drop` does not count them.
        truncated: Kept rows that lost their end, by reason.
        unused_columns: Columns that no schema reads, with the rows that had them.
    """

    def __init__(self) -> None:
        self.rows_in = 0
        self.kept = 0
        self.set_aside = 0
        self.lost: dict[str, Entry] = {}
        self.filtered: dict[tuple[str, str], Entry] = {}
        self.truncated: dict[str, Entry] = {}
        self.unused_columns: Counter[str] = Counter()
        self._digest = hashlib.sha256()

    @property
    def num_lost(self) -> int:
        """Rows that could not be used."""
        return sum(entry.count for entry in self.lost.values())

    @property
    def num_filtered(self) -> int:
        """Rows that filters and samples took out."""
        return sum(entry.count for entry in self.filtered.values())

    @property
    def num_pending(self) -> int:
        """Rows that were read and neither kept, dropped nor set aside."""
        decided = self.kept + self.num_lost + self.num_filtered + self.set_aside
        assert decided <= self.rows_in, f"{decided} rows decided of {self.rows_in} that came in"
        return self.rows_in - decided

    @property
    def data_hash(self) -> str:
        """SHA-256, in hex, over the content of all kept rows in their order."""
        return self._digest.hexdigest()

    def enter(self) -> None:
        """Count a row that was read, good or bad."""
        self.rows_in += 1

    def keep(self, row: RowId, example: Example) -> None:
        """Say that a row is used; its content enters the data hash."""
        self.kept += 1
        self._digest.update(content_hash(example))

    def drop(self, row: RowId, reason: str, detail: str = "", *, by: str | None = None) -> None:
        """Say that a row is not used.

        Args:
            reason: Completes "dropped because"; the same words for the same cause.
            detail: What is particular to this row.
            by: Name of the filter that was asked to take such rows out; None for a loss.
        """
        if by is None:
            self.lost.setdefault(reason, Entry()).add(row, detail)
        else:
            self.filtered.setdefault((by, reason), Entry()).add(row, detail)

    def truncate(self, row: RowId, reason: str, detail: str = "") -> None:
        """Say that a row loses its end; it is kept by `keep` as any other."""
        self.truncated.setdefault(reason, Entry()).add(row, detail)

    def put_aside(self, row: RowId) -> None:
        """Say that a row belongs to the other part of a split."""
        self.set_aside += 1

    def note_unused(self, columns: Iterable[str]) -> None:
        """Count columns that are not read, and say so in the log the first time."""
        for column in columns:
            if column not in self.unused_columns:
                _logger.warning("column %s is not read by the schema of its row", column)
            self.unused_columns[column] += 1

    def check(self, max_drop: float) -> None:
        """Stop when more rows were lost than allowed.

        Args:
            max_drop: Largest share of the rows read that may be lost, 0 to 1.
        Raises:
            DataError: more were lost, or no row was read at all.
        """
        if not self.rows_in:
            raise DataError("the data hold no row at all.\n  Check data.paths.")
        if self.num_lost > max_drop * self.rows_in:
            raise DataError(
                f"{self.num_lost} of {self.rows_in} rows cannot be used, "
                f"{self.num_lost / self.rows_in:.2%}; max_drop allows {max_drop:.2%}.\n"
                f"{self._losses()}\n  Mend the rows, or set data.max_drop higher."
            )

    def close(self, max_drop: float) -> None:
        """Check the ledger at the end of a pass: nothing pending, and losses as allowed.

        Raises:
            DataError: more rows were lost than `max_drop`, or no row was read at all.
        """
        assert not self.num_pending, f"{self.num_pending} rows were neither kept nor dropped"
        self.check(max_drop)

    def report(self) -> dict[str, Any]:
        """Give the whole ledger as JSON values; counts are exact, of each reason 20 rows named."""
        by_filter = [
            {"filter": name, "reason": reason, **entry.report()}
            for (name, reason), entry in self.filtered.items()
        ]
        return {
            "rows_in": self.rows_in,
            "kept": self.kept,
            "lost": self.num_lost,
            "filtered": self.num_filtered,
            "set_aside": self.set_aside,
            "pending": self.num_pending,
            "truncated": sum(entry.count for entry in self.truncated.values()),
            "data_hash": self.data_hash,
            "unused_columns": dict(self.unused_columns),
            "lost_by_reason": _by_reason(self.lost),
            "filtered_by_reason": by_filter,
            "truncated_by_reason": _by_reason(self.truncated),
        }

    def write(self, path: Path) -> None:
        """Write the report as JSON, whole or not at all."""
        part = path.with_name(path.name + ".part")
        with part.open("w", encoding="utf-8") as file:
            json.dump(self.report(), file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)

    def _losses(self) -> str:
        lines = []
        for reason, entry in sorted(self.lost.items(), key=lambda item: -item[1].count):
            lines.append(f"  {entry.count} because {reason}:")
            shown = entry.rows[:_NAMED_IN_ERROR]
            lines += [f"    {row} {detail}".rstrip() for row, detail in shown]
            if entry.count > len(shown):
                lines.append(f"    and {entry.count - len(shown)} more")
        return "\n".join(lines)


def _by_reason(entries: dict[str, Entry]) -> list[dict[str, Any]]:
    return [{"reason": reason, **entry.report()} for reason, entry in entries.items()]
