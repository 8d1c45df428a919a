"""The endurance benchmark: flat for a state and a window, and not for a cache of everything."""

from dataclasses import replace

import pytest

from benchmarks.endurance.run import Course, Report, Settings, run_model
from benchmarks.endurance.tiny_models import CONFIGURATIONS

FLAT = Course(1000.0, 990.0, 100.0, 99.0, 0.99, 0.99, 50.0, 51.0, 1.0)


@pytest.mark.parametrize(
    "change",
    [{"prefill_share": 0.94}, {"decode_share": 0.94}, {"rss_most_mb": 54.1}],
    ids=lambda change: next(iter(change)),
)
def test_slower_or_larger_fails(change: dict[str, float]) -> None:
    assert FLAT.has_passed
    worse = replace(FLAT, **change)
    assert not worse.has_passed
    report = Report(Settings(), {"flat": FLAT, "worse": worse})
    assert not report.has_passed
    assert "FAILED" in report.as_text()
    assert report.as_json()["courses"]["worse"]["ratio"] == worse.ratio


def test_cache_of_everything_gets_slower() -> None:
    """What the window is for: without it the same model fails."""
    config = {**CONFIGURATIONS["window"], "sliding_window": None}
    course = run_model(config, Settings(tokens=10_240, new_tokens=200))
    assert course.ratio < 0.8
    assert not course.has_passed


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_state_and_window_stay_as_fast_and_as_small(name: str) -> None:
    settings = Settings(tokens=50_000, new_tokens=2_000, step_tokens=64)
    course = run_model(CONFIGURATIONS[name], settings)
    assert course.growth_mb < 4.0, course
    # Half as strict as the benchmark: tests run beside each other.
    assert course.ratio > 0.9, course
