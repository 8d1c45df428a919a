import json
from pathlib import Path

import pytest

from yearling.core.errors import DataError
from yearling.data.examples import Document
from yearling.data.ledger import Ledger
from yearling.data.rows import RowId


def row(number: int) -> RowId:
    return RowId("a.jsonl", number)


def ledger_of(kept: int, lost: int) -> Ledger:
    ledger = Ledger()
    for number in range(kept + lost):
        ledger.enter()
        if number < kept:
            ledger.keep(row(number), Document(str(number)))
        else:
            ledger.drop(row(number), "it is bad", f"detail {number}")
    return ledger


def test_check_names_reasons_and_first_rows_above_max_drop() -> None:
    ledger = ledger_of(kept=90, lost=10)
    ledger.close(0.1)
    with pytest.raises(DataError) as caught:
        ledger.close(0.09)
    said = str(caught.value)
    assert "10 of 100 rows cannot be used, 10.00%; max_drop allows 9.00%" in said
    assert "10 because it is bad:\n    a.jsonl:90 detail 90" in said
    assert "and 5 more" in said


def test_what_filters_take_out_is_no_loss() -> None:
    ledger = ledger_of(kept=1, lost=0)
    for number in range(9):
        ledger.enter()
        ledger.drop(row(number), "it is short", by="length")
    ledger.close(0.0)
    assert (ledger.num_lost, ledger.num_filtered) == (0, 9)


def test_no_row_at_all_is_an_error() -> None:
    with pytest.raises(DataError, match="no row at all"):
        Ledger().close(1.0)


def test_books_that_do_not_balance_are_our_own_mistake() -> None:
    ledger = ledger_of(kept=1, lost=0)
    ledger.enter()
    with pytest.raises(AssertionError, match="1 rows were neither kept nor dropped"):
        ledger.close(1.0)
    ledger.put_aside(row(1))
    ledger.close(0.0)
    ledger.keep(row(1), Document("again"))
    with pytest.raises(AssertionError, match="3 rows decided of 2"):
        ledger.close(1.0)


def test_report_counts_exactly_and_names_twenty(tmp_path: Path) -> None:
    ledger = ledger_of(kept=2, lost=30)
    ledger.truncate(row(0), "it is long", "to 8 tokens")
    ledger.note_unused(["id"])
    ledger.note_unused(["id"])
    ledger.write(tmp_path / "data_report.json")
    report = json.loads((tmp_path / "data_report.json").read_text())
    assert (report["rows_in"], report["kept"], report["lost"], report["truncated"]) == (
        32,
        2,
        30,
        1,
    )
    (reason,) = report["lost_by_reason"]
    assert (reason["count"], len(reason["rows"])) == (30, 20)
    assert reason["rows"][0] == {"row": "a.jsonl:2", "detail": "detail 2"}
    assert report["unused_columns"] == {"id": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["data_report.json"]


def test_data_hash_is_of_kept_rows_in_their_order() -> None:
    def hash_of(*texts: str, lost: int = 0) -> str:
        ledger = ledger_of(0, lost)
        for number, text in enumerate(texts):
            ledger.enter()
            ledger.keep(row(number), Document(text))
        return ledger.data_hash

    assert hash_of("a", "b") == hash_of("a", "b", lost=3)
    assert len({hash_of("a", "b"), hash_of("b", "a"), hash_of("ab"), hash_of("a")}) == 4


def test_unused_column_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    ledger = Ledger()
    for _ in range(3):
        ledger.note_unused(["id"])
    assert [record.getMessage() for record in caplog.records] == [
        "column id is not read by the schema of its row"
    ]
