"""A row that cannot be trained on, with the reason under which the ledger counts it."""

from yearling.core.errors import DataError
from yearling.data.rows import RowId

__all__ = ["NOTHING_TO_LEARN", "NO_STOP", "REFUSED", "REWRITTEN", "TOO_LONG", "RowError"]

NOTHING_TO_LEARN = "nothing to learn"
NO_STOP = "stop token without loss"
REFUSED = "template refuses the conversation"
REWRITTEN = "template rewrites the conversation"
TOO_LONG = "too long"


class RowError(DataError):
    """A row that cannot be trained on.

    Attributes:
        reason: Completes "dropped because"; few and fixed, so that rows can be counted by it.
        detail: What it was in this row, and what to do.
        row_id: The row, once it is known.
    """

    def __init__(self, reason: str, detail: str, row_id: RowId | None = None) -> None:
        where = "" if row_id is None else f"{row_id}: "
        super().__init__(f"{where}{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.row_id = row_id

    def at(self, row_id: RowId) -> "RowError":
        """The same error with the row it came from."""
        return RowError(self.reason, self.detail, row_id)
