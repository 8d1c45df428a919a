import random

from yearling.data.ledger import Ledger
from yearling.data.rows import Row, RowId
from yearling.data.sampling import sample_rows

ROWS = [Row(RowId("a.jsonl", number), {"text": f"row {number}"}) for number in range(1, 501)]


def texts(rows: list[Row], size: int, seed: int = 0) -> list[str]:
    return [row.values["text"] for row in sample_rows(rows, size, seed, Ledger())]


def test_sample_has_its_size_in_the_order_of_the_file() -> None:
    ledger = Ledger()
    sample = list(sample_rows(ROWS, 20, 0, ledger))
    assert [row.id.number for row in sample] == sorted(row.id.number for row in sample)
    assert len(sample) == 20
    assert (ledger.num_filtered, ledger.num_lost) == (480, 0)
    assert next(iter(ledger.filtered)) == ("#20", "it is outside the sample")


def test_sample_is_the_same_rows_in_any_order() -> None:
    shuffled = random.Random(0).sample(ROWS, len(ROWS))
    assert set(texts(ROWS, 20)) == set(texts(shuffled, 20))
    assert set(texts(ROWS, 20)) < set(texts(ROWS, 40))
    assert texts(ROWS, 20) != texts(ROWS, 20, seed=1)


def test_sample_of_more_than_there_are_is_all() -> None:
    assert texts(ROWS, 1_000) == [row.values["text"] for row in ROWS]


def test_equal_rows_may_all_be_in_a_sample() -> None:
    same = [Row(RowId("a.jsonl", number), {"text": "a"}) for number in range(9)]
    assert texts(same, 5) == ["a"] * 5
