"""Schedules: their values by hand, and that they end where they should."""

import pytest
from pydantic import ValidationError

from yearling.training.schedules import ScheduleConfig, rate_factor


def factors(num_steps: int = 10, **options: object) -> list[float]:
    schedule = ScheduleConfig.model_validate(options)
    return [rate_factor(schedule, step, num_steps) for step in range(num_steps)]


def test_warmup_rises_to_one_in_steps_or_in_a_share_of_them() -> None:
    assert factors(name="constant", warmup=4)[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors(name="constant", warmup=0.4) == factors(name="constant", warmup=4)
    assert factors(name="constant", warmup=0) == [1.0] * 10


def test_linear_falls_evenly() -> None:
    assert factors(name="linear", warmup=0) == pytest.approx([1 - n / 10 for n in range(10)])


def test_cosine_is_half_way_down_in_the_middle_and_ends_at_the_floor() -> None:
    found = factors(name="cosine", warmup=0, floor=0.2)
    assert found[0] == 1.0
    assert found[5] == pytest.approx(0.6)
    assert rate_factor(ScheduleConfig(name="cosine", warmup=0, floor=0.2), 10, 10) == pytest.approx(
        0.2
    )
    assert found == sorted(found, reverse=True)


def test_wsd_stays_up_until_its_decay() -> None:
    found = factors(name="wsd", warmup=2, decay=4)
    assert found == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25])
    assert factors(name="wsd", warmup=2, decay=0.4) == found


def test_rate_stays_where_it_ended_behind_the_last_step() -> None:
    schedule = ScheduleConfig(name="linear", warmup=0, floor=0.1)
    assert rate_factor(schedule, 50, 10) == pytest.approx(0.1)


def test_half_a_step_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"warmup=2\.5 is neither a share below 1 nor"):
        ScheduleConfig(warmup=2.5)
