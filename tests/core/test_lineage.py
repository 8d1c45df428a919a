import hashlib
from pathlib import Path

import pytest

from yearling.core.errors import LineageError
from yearling.core.lineage import LineageLedger, LineageRecord, hash_file, hash_json


def record(step: str, *parents: str) -> LineageRecord:
    return LineageRecord(
        step=step, name="tiny", created="2023-01-01T00:00:00Z", version="0.1.0", parents=parents
    )


@pytest.fixture
def ledger(tmp_path: Path) -> LineageLedger:
    return LineageLedger(tmp_path / "lineage")


def test_written_record_reads_back_equal(ledger: LineageLedger) -> None:
    written = record("pull").model_copy(update={"outputs": {"model.gguf": "ab"}})
    assert ledger.read(ledger.write(written)) == written


def test_write_is_the_same_twice(ledger: LineageLedger) -> None:
    assert ledger.write(record("pull")) == ledger.write(record("pull"))
    assert len(list(ledger.folder.iterdir())) == 1


def test_ancestry_gives_each_record_once_nearest_first(ledger: LineageLedger) -> None:
    base = ledger.write(record("pull"))
    left = ledger.write(record("train", base))
    right = ledger.write(record("quantise", base))
    merged = ledger.write(record("merge", left, right))
    steps = [step.step for step in ledger.ancestry(merged)]
    assert steps == ["merge", "train", "quantise", "pull"]


def test_write_refuses_a_parent_that_is_not_there(ledger: LineageLedger) -> None:
    with pytest.raises(LineageError, match="no lineage record feed"):
        ledger.write(record("train", "feed"))


def test_changed_record_is_noticed(ledger: LineageLedger) -> None:
    name = ledger.write(record("pull"))
    file = ledger.folder / f"{name}.json"
    file.write_text(file.read_text().replace("tiny", "huge"))
    with pytest.raises(LineageError, match="was changed"):
        ledger.read(name)


def test_file_of_another_form_is_an_error(ledger: LineageLedger) -> None:
    ledger.folder.mkdir()
    (ledger.folder / "ab.json").write_text("{}")
    with pytest.raises(LineageError, match="is not a lineage record"):
        ledger.read("ab")


def test_ledger_lives_in_the_home_when_no_folder_is_given(tmp_home: Path) -> None:
    assert LineageLedger().folder == tmp_home / "lineage"


def test_hash_file_is_sha256_of_its_bytes(tmp_path: Path) -> None:
    content = b"yearling" * 300_000  # more than one chunk
    (tmp_path / "blob").write_bytes(content)
    assert hash_file(tmp_path / "blob") == hashlib.sha256(content).hexdigest()


def test_hash_json_depends_on_values_not_on_order() -> None:
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
    assert hash_json({"a": 1}) != hash_json({"a": 2})
