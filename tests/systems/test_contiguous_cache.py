"""Requests that arrive: served as they come, or in padded batches of those that wait."""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import pytest

from yearling.systems import contiguous_cache as measured
from yearling.systems.driving import FixedRequest, RecordedSteps
from yearling.systems.serving_models import tiny_executor

TIMES = [0.0, 0.05, 0.1, 0.15, 0.2, 0.25]


@pytest.fixture
def steps(tmp_path: Path) -> Iterator[RecordedSteps]:
    pytest.importorskip("safetensors")
    with tiny_executor(tmp_path, cache_bytes=1 << 20, context=96) as executor:
        yield RecordedSteps(executor)


def requests(*answers: int) -> list[FixedRequest]:
    return [FixedRequest([n + 1] * 14, length) for n, length in enumerate(answers)]


def test_requests_are_served_when_they_arrive(steps: RecordedSteps) -> None:
    started = perf_counter()
    speed = measured._serve_continuous(steps, requests(4, 4, 4, 4, 4, 4), TIMES)
    seconds = perf_counter() - started
    assert seconds >= TIMES[-1]
    # The last may not have begun when the time is over; a tiny model has ended all others.
    assert 5 * 4 / seconds <= speed <= 6 * 4 / TIMES[-1]
    assert max(steps.num_sequences) < 6


def test_static_batches_wait_for_their_longest(
    steps: RecordedSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    inner = measured._static_batch

    def noted(executor: RecordedSteps, batch: list[FixedRequest]) -> tuple[int, float]:
        batches.append(len(batch))
        return inner(executor, batch)

    monkeypatch.setattr(measured, "_static_batch", noted)
    monkeypatch.setattr(measured, "REAL_LONGEST", steps.num_cache_tokens // 2)  # two slots
    # All but the last are there at once, so pairs are run, each as long as its longer answer.
    measured._serve_static(steps, requests(2, 40, 2, 2, 9), [0.0, 0.0, 0.0, 0.0, 0.3])
    assert batches == [2, 2]
    assert steps.num_sequences.count(2) >= 40 + 2
