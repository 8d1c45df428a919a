"""Driving an engine by hand: what is counted is what the steps held."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from yearling.serving.executor import GroupBlocks, SequenceInput
from yearling.systems.driving import (
    FixedRequest,
    RecordedSteps,
    answers,
    drive,
    held_tokens,
    new_engine,
)


def part(start: int, num_tokens: int, blocks: list[int]) -> SequenceInput:
    return SequenceInput([0] * num_tokens, start, [GroupBlocks(blocks)])


def test_held_tokens_counts_what_is_computed_and_whole_blocks() -> None:
    assert held_tokens([part(0, 20, [3, 5])], 16) == (20, 2)
    assert held_tokens([part(31, 1, [0, 1, 2])], 16) == (32, 3)


def test_held_tokens_counts_a_shared_block_once() -> None:
    assert held_tokens([part(16, 4, [0, 1]), part(16, 9, [0, 2])], 16) == (16 + 4 + 9, 3)


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory):
    pytest.importorskip("safetensors")
    from yearling.systems.serving_models import tiny_executor

    folder: Path = tmp_path_factory.mktemp("tiny")
    with tiny_executor(folder, cache_bytes=1 << 20, context=96) as loaded:
        yield loaded


def requests(number: int) -> list[FixedRequest]:
    return [FixedRequest([n + 1] * 14, 12) for n in range(number)]


def test_answers_have_the_length_asked_and_do_not_depend_on_room(executor) -> None:
    roomy = answers(new_engine(RecordedSteps(executor)), requests(6))
    tight = new_engine(RecordedSteps(executor, num_blocks=6))
    assert answers(tight, requests(6)) == roomy
    assert [len(answer) for answer in roomy] == [12] * 6
    assert tight.stats().num_preemptions > 0


def test_reserved_slots_bound_the_sequences_of_a_step(executor) -> None:
    for slots, largest in ((2, 2), (None, 6)):
        recorded = RecordedSteps(executor)
        assert drive(new_engine(recorded, slots), requests(6)) == 6 * 12
        assert max(recorded.num_sequences) == largest


def test_saturated_drive_stops_when_none_waits_and_leaves_nothing(executor) -> None:
    engine = new_engine(RecordedSteps(executor), 2)
    made = drive(engine, requests(6), is_saturated=True)
    assert 4 * 12 <= made < 6 * 12
    stats = engine.stats()
    assert stats.num_free_blocks == stats.num_blocks


def test_more_blocks_than_there_are_cannot_be_shown() -> None:
    inner = SimpleNamespace(cache_shapes=[SimpleNamespace(num_blocks=4)])
    with pytest.raises(AssertionError, match="more than there are"):
        RecordedSteps(inner, num_blocks=5)
