import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.data.filters.filtering import judged, taken_out
from yearling.core.errors import DataError

QUESTION = "If a train leaves at nine and arrives at noon how long does the journey take"
CLEAN = "If a train leaves at ten and arrives at noon how long does the journey last"


def test_passage_of_an_evaluation_set_is_found_with_its_row(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    rows = [{"question": "Short?", "answer": "yes"}, {"question": QUESTION, "answer": "3 hours"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [CLEAN, f"Homework: {QUESTION.upper()}?!", "yes, short"]
    assert taken_out("decontamination", texts, paths=[str(file)]) == [2]
    said = judged("decontamination", texts, paths=[str(file)])[1]
    assert said is not None
    assert said.detail.startswith(f"{file}:2: if a train leaves")


def test_ngram_decides_how_much_is_too_much() -> None:
    assert taken_out("decontamination", [CLEAN], texts=[QUESTION]) == []
    assert taken_out("decontamination", [CLEAN], texts=[QUESTION], ngram=8) == [1]


def test_short_evaluation_texts_are_looked_for_whole() -> None:
    texts = ["What is the capital city of France today", "a capital city"]
    evaluation = ["the capital city of France today", "capital city"]
    assert taken_out("decontamination", texts, texts=evaluation) == [1]
    assert taken_out("decontamination", texts, texts=evaluation, min_words=2) == [1, 2]


def test_set_without_a_schema_is_read_all_the_same(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text(json.dumps({"item": {"choices": ["no", QUESTION]}}))
    assert taken_out("decontamination", [QUESTION], paths=[str(file)]) == [1]


def test_unreadable_evaluation_row_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    file.write_text("{\n")
    with pytest.raises(DataError, match=r"test\.jsonl:1 of an evaluation set cannot be read"):
        judged("decontamination", [], paths=[str(file)])


def test_nothing_to_look_for_is_an_error() -> None:
    with pytest.raises(ValidationError, match="needs paths or texts"):
        judged("decontamination", [])
