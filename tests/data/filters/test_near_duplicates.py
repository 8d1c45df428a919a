import random
import sys

import pytest

from tests.data.filters.filtering import judged, taken_out
from yearling.core.errors import UnsupportedError
from yearling.data.examples import Document
from yearling.data.filters.near_duplicates import ngrams_of

pytest.importorskip("datasketch")
WORDS = [f"word{number}" for number in range(2_000)]


def text_of(generator: random.Random, length: int = 300) -> list[str]:
    return generator.choices(WORDS, k=length)


def similarity(one: str, other: str) -> float:
    first, second = ngrams_of(Document(one), 5), ngrams_of(Document(other), 5)
    return len(first & second) / len(first | second)


def test_near_duplicates_are_found_and_others_stay() -> None:
    generator = random.Random(0)
    originals = [text_of(generator) for _ in range(150)]
    copies = []
    for words in originals:
        changed = list(words)
        changed[generator.randrange(300)] = "another"
        copies.append(" ".join(changed))
    texts = [" ".join(words) for words in originals]
    assert all(similarity(*pair) >= 0.9 for pair in zip(texts, copies, strict=True))
    assert taken_out("near_duplicates", texts + copies) == list(range(151, 301))


def test_threshold_decides_what_is_near() -> None:
    words = text_of(random.Random(1))
    half = " ".join([*words[:200], *text_of(random.Random(2), 100)])
    texts = [" ".join(words), half]
    assert 0.4 < similarity(*texts) < 0.6
    assert taken_out("near_duplicates", texts) == []
    assert taken_out("near_duplicates", texts, threshold=0.3) == [2]


def test_rejection_names_the_row_it_is_like() -> None:
    (_, said) = judged("near_duplicates", ["The first year, of five.", "the first year of five"])
    assert said is not None
    assert said.detail == "1.00 alike to a.jsonl:1"


def test_short_and_chinese_texts_are_compared() -> None:
    texts = ["yes", "no", "yes!", "语言模型的元年是二〇二三年", "语言模型的元年是二〇二三年。"]
    assert taken_out("near_duplicates", texts) == [3, 5]


def test_missing_datasketch_is_an_error_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    with pytest.raises(UnsupportedError, match=r"pip install yearling\[train\]"):
        judged("near_duplicates", [])
