import os
from collections.abc import Iterator

import pytest

from benchmarks.serving.machine import BusyWatch
from benchmarks.serving.session import alternate, measure
from benchmarks.serving.workload import Phase, Timing, Workload
from tests.benchmarks.test_engine_process import fake


class RecordedEngine:
    """Notes every call in a list it shares with its neighbours; call n takes n seconds."""

    load_seconds = 1.0
    description = "recorded"
    pid = os.getpid()

    def __init__(self, name: str, calls: list[tuple[str, str]], left_out: str = "") -> None:
        self.name = name
        self._left_out = left_out
        self._calls = calls
        self._seconds: Iterator[int] = iter(range(1, 1000))

    def gives(self, metric: str) -> bool:
        return metric != self._left_out

    def run(self, phase: Phase) -> Timing:
        self._calls.append((phase.metric, self.name))
        new_tokens = phase.new_tokens * len(phase.prompts)
        seconds = float(next(self._seconds))
        return Timing(seconds, new_tokens, 100.0 + seconds, first_token_seconds=seconds)


@pytest.fixture
def calls() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def samples(calls: list[tuple[str, str]]) -> dict[str, dict[str, list[float]]]:
    return alternate(
        [RecordedEngine(name, calls) for name in "ABC"],
        Workload(range(50_000), new_tokens=8),
        repeats=3,
        watch=BusyWatch(),
        progress=lambda text: None,
    )


def test_engines_follow_each_other_within_every_phase(
    calls: list[tuple[str, str]], samples: dict[str, dict[str, list[float]]]
) -> None:
    for first in range(0, len(calls), 3):
        metrics, names = zip(*calls[first : first + 3], strict=True)
        assert len(set(metrics)) == 1
        assert set(names) == set("ABC")


def test_each_engine_goes_first_in_turn(
    calls: list[tuple[str, str]], samples: dict[str, dict[str, list[float]]]
) -> None:
    firsts = [name for metric, name in calls if metric == "decode_1"][3::3]
    assert firsts == ["A", "B", "C"]


def test_warm_up_is_no_sample(samples: dict[str, dict[str, list[float]]]) -> None:
    # Six phases a round: the warm-up's first token times were 5 and 6 seconds.
    assert samples["A"]["ttft"] == [11.0, 17.0, 23.0]


def test_peak_memory_is_the_last_seen(samples: dict[str, dict[str, list[float]]]) -> None:
    assert samples["A"]["peak_rss_mb"] == [124.0]


def test_a_form_runs_only_what_it_is_measured_on(calls: list[tuple[str, str]]) -> None:
    samples = alternate(
        [RecordedEngine("whole", calls), RecordedEngine("part", calls, left_out="decode_8")],
        Workload(range(50_000), new_tokens=8),
        repeats=1,
        watch=BusyWatch(),
        progress=lambda text: None,
    )
    assert ("decode_8", "whole") in calls
    assert ("decode_8", "part") not in calls
    assert set(samples["whole"]) - set(samples["part"]) == {"decode_8"}


def test_measure_gives_medians_of_every_metric_for_real_processes() -> None:
    session = measure(
        [fake("slow-0.04", "ours"), fake("slow-0.001", "theirs")],
        Workload(range(50_000), new_tokens=8),
        repeats=2,
        watch=BusyWatch(),
        progress=lambda text: None,
    )
    assert session.descriptions == {"ours": "fake slow-0.04", "theirs": "fake slow-0.001"}
    assert session.summaries["ours"]["load_seconds"].count == 5
    assert session.summaries["ours"]["decode_32"].count == 2
    assert session.summaries["ours"]["decode_32"].median < 32 * 8 / 0.04
    for metric in ("decode_1", "prefill_1000"):
        ours, theirs = (session.summaries[name][metric].median for name in ("ours", "theirs"))
        assert ours < theirs
