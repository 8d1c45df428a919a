from yearling.data.examples import Continuation, Document
from yearling.data.split import is_validation

ROWS = [Document(f"row number {number}") for number in range(2_000)]


def test_share_is_as_asked() -> None:
    assert 150 < sum(is_validation(row, 0.1) for row in ROWS) < 250
    assert not any(is_validation(row, 0.0) for row in ROWS)


def test_row_stays_in_its_part_whatever_stands_around_it() -> None:
    before = {row.text: is_validation(row, 0.1) for row in ROWS[:100]}
    after = {row.text: is_validation(row, 0.1) for row in reversed(ROWS)}
    assert all(after[text] == part for text, part in before.items())


def test_larger_fraction_only_adds() -> None:
    small = {row.text for row in ROWS if is_validation(row, 0.05)}
    assert small < {row.text for row in ROWS if is_validation(row, 0.1)}


def test_duplicates_are_on_one_side() -> None:
    for row in ROWS[:200]:
        loud = Document(row.text.upper() + "!")
        assert is_validation(row, 0.5) == is_validation(loud, 0.5)
        pair = Continuation(row.text, "a")
        assert is_validation(pair, 0.5) == is_validation(Continuation(row.text + " ", "a"), 0.5)


def test_seed_gives_another_split() -> None:
    assert [is_validation(row, 0.5, 1) for row in ROWS] != [is_validation(row, 0.5) for row in ROWS]
