import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yearling.core.errors import DataError
from yearling.data.config import DataConfig
from yearling.data.examples import Document
from yearling.data.ledger import Ledger
from yearling.data.pipeline import has_validation, read_examples, read_training, read_validation

GOOD = st.builds(lambda text: json.dumps({"text": "x" + text}), st.text())
BAD = st.sampled_from(['{"text"', "[]", '{"txt": "a"}', '{"text": ""}', "\x00", '{"text": 1}'])
FILTERS = ["exact_duplicates", {"name": "length", "min_characters": 3}]


def config_of(*paths: Path | str, **options: object) -> DataConfig:
    return DataConfig.model_validate({"paths": [str(path) for path in paths], **options})


def run(config: DataConfig, read=read_examples) -> tuple[list[str], Ledger]:
    """Keep all that comes, as an encoder does; the texts and the closed ledger."""
    ledger, texts = Ledger(), []
    for row, example in read(config, ledger):
        ledger.keep(row, example)
        assert isinstance(example, Document)
        texts.append(example.text)
    ledger.close(config.max_drop)
    return texts, ledger


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    lines=st.lists(GOOD | BAD, min_size=1, max_size=30),
    sample=st.none() | st.integers(1, 20),
    filters=st.sampled_from([[], FILTERS]),
    fraction=st.sampled_from([0.0, 0.5]),
)
def test_rows_in_are_kept_dropped_or_set_aside(
    tmp_path: Path,
    lines: list[str],
    sample: int | None,
    filters: list[object],
    fraction: float,
) -> None:
    file = write(tmp_path / "a.jsonl", *lines)
    path = str(file) if sample is None else f"{file}#{sample}"
    config = config_of(path, max_drop=1.0, filters=filters, validation_fraction=fraction)
    training, one = run(config, read_training)
    validation, other = run(config, read_validation)
    for ledger in (one, other):
        assert ledger.rows_in == len(lines)
        decided = ledger.kept + ledger.num_lost + ledger.num_filtered + ledger.set_aside
        assert decided == len(lines)
    assert (one.set_aside, other.set_aside) == (len(validation), len(training))
    assert not set(training) & set(validation)


def test_few_bad_rows_are_named_and_not_fatal(tmp_path: Path) -> None:
    lines = ['{"text": "a"}'] * 198
    file = write(tmp_path / "a.jsonl", *lines[:50], "{", *lines[50:], '{"txt": "a"}')
    texts, ledger = run(config_of(file))
    assert len(texts) == 198
    assert [str(entry.rows[0][0]) for entry in ledger.lost.values()] == [
        f"{file}:51",
        f"{file}:200",
    ]


def test_too_many_bad_rows_stop_with_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a"}', "{", '{"txt": "a"}')
    with pytest.raises(DataError) as caught:
        run(config_of(file))
    assert "2 of 3 rows cannot be used" in str(caught.value)
    assert f"{file}:2 " in str(caught.value)
    assert f"{file}:3 the columns 'txt' fit no schema" in str(caught.value)


def test_hopeless_file_stops_at_once(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *['{"txt": "a"}'] * 5_000)
    with pytest.raises(DataError, match="100 of 100 rows"):
        run(config_of(file))


def test_stream_stops_when_it_loses_too_much(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", *['{"text": "a"}', "{"] * 2_000)
    with pytest.raises(DataError, match="of 1000 rows"):
        run(config_of(file, is_streaming=True))
    with pytest.raises(DataError, match="of 4000 rows"):
        run(config_of(file))


def test_filters_run_in_the_order_of_the_configuration(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "ab"}', '{"text": "ab"}', '{"text": "abc"}')
    for filters, counted in ((FILTERS, [1, 1]), (FILTERS[::-1], [2])):
        texts, ledger = run(config_of(file, filters=filters))
        assert texts == ["abc"]
        assert [entry.count for entry in ledger.filtered.values()] == counted


def test_paths_follow_each_other(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", '{"text": "a"}')
    second = write(tmp_path / "b.csv", "text", "b")
    assert run(config_of(second, first))[0] == ["b", "a"]


def test_validation_paths_are_read_as_they_are(tmp_path: Path) -> None:
    training = write(tmp_path / "a.jsonl", '{"text": "training"}')
    validation = write(tmp_path / "b.jsonl", '{"text": "v"}', '{"text": "v"}')
    config = config_of(training, validation_paths=str(validation), filters=FILTERS)
    assert has_validation(config)
    assert not has_validation(config_of(training))
    assert run(config, read_training)[0] == ["training"]
    assert run(config, read_validation)[0] == ["v", "v"]


def test_unused_columns_are_in_the_ledger(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", '{"text": "a", "id": 1}', '{"text": "b", "id": 2}')
    assert run(config_of(file))[1].unused_columns == {"id": 2}
