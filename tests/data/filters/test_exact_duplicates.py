from tests.data.filters.filtering import judged, taken_out
from yearling.data.filters import Rejection


def test_exact_duplicates_leave_the_first() -> None:
    texts = ["a", "b", "a", "A", "a"]
    assert taken_out("exact_duplicates", texts) == [3, 5]
    assert judged("exact_duplicates", texts)[4] == Rejection(
        "it repeats an earlier row", "as a.jsonl:1"
    )


def test_loose_duplicates_differ_in_case_spaces_and_punctuation() -> None:
    texts = ["The year.", "the  year", "the years"]
    assert taken_out("exact_duplicates", texts) == []
    assert taken_out("exact_duplicates", texts, is_loose=True) == [2]
