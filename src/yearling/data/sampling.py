"""A sample of a file's rows, the same in every run: the `#N` behind a path."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from heapq import heappush, heappushpop

from yearling.data.ledger import Ledger
from yearling.data.rows import Row, RowId

__all__ = ["sample_rows"]

_REASON = "it is outside the sample"


def sample_rows(rows: Iterable[Row], size: int, seed: int, ledger: Ledger) -> Iterator[Row]:
    """Give the rows whose hashes are the first, in the order of the file.

    The hash is of a row's content, so that moving rows about changes nothing. All rows are read
    once and those of the sample held in memory; the ledger gets the others.

    Args:
        size: Rows in the sample; all where there are no more.
    """
    # The largest hash on top, as a negative number: heapq keeps the smallest there. The place
    # comes second, so that rows are never compared, which they cannot be.
    heap: list[tuple[int, int, Row]] = []
    for place, row in enumerate(rows):
        entry = (-_hash(row, seed), -place, row)
        if len(heap) < size:
            heappush(heap, entry)
        else:
            _, _, left_out = heappushpop(heap, entry)
            _leave_out(left_out.id, size, ledger)
    for _, _, row in sorted(heap, key=lambda entry: -entry[1]):
        yield row


def _leave_out(row: RowId, size: int, ledger: Ledger) -> None:
    ledger.drop(row, _REASON, by=f"#{size}")


def _hash(row: Row, seed: int) -> int:
    text = json.dumps([seed, row.values], sort_keys=True, default=str)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
