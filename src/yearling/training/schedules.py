"""Learning rate schedules: what the optimizer's rate is multiplied by, from step to step."""

import math
from typing import Literal

from pydantic import Field, model_validator

from yearling.core.config import Config

__all__ = ["ScheduleConfig", "rate_factor"]


class ScheduleConfig(Config):
    """How the learning rate rises and falls."""

    name: Literal["constant", "linear", "cosine", "wsd"] = Field(
        default="cosine",
        description="Shape behind the warm-up: flat, a straight fall, half a cosine, or warm-up, "
        "stable, decay (flat, then a straight fall at the end).",
    )
    warmup: float = Field(
        default=0.03,
        ge=0,
        description="Rise at the start: below 1 a share of all steps, from 1 a number of steps.",
    )
    decay: float = Field(
        default=0.2,
        gt=0,
        description="Fall at the end of `wsd`: below 1 a share of all steps, from 1 steps.",
    )
    floor: float = Field(
        default=0.0, ge=0, le=1, description="Share of the learning rate that the fall ends at."
    )

    @model_validator(mode="after")
    def _check_steps(self) -> "ScheduleConfig":
        for key in ("warmup", "decay"):
            value = getattr(self, key)
            if value >= 1 and value != int(value):
                raise ValueError(f"{key}={value} is neither a share below 1 nor a whole number.")
        return self


def rate_factor(schedule: ScheduleConfig, step: int, num_steps: int) -> float:
    """Give what the learning rate is multiplied by in a step.

    Args:
        step: From 0.
        num_steps: Steps of the whole run; behind them the last factor stays.
    Source: Loshchilov and Hutter 2017, arXiv:1608.03983 (cosine); Hu et al. 2024,
        arXiv:2404.06395 (warm-up, stable, decay).

    >>> straight = ScheduleConfig(name="linear", warmup=2)
    >>> [rate_factor(straight, step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """
    warmup = _steps(schedule.warmup, num_steps)
    if step < warmup:
        return (step + 1) / warmup
    if schedule.name == "constant":
        return 1.0
    start = warmup
    if schedule.name == "wsd":
        start = max(warmup, num_steps - _steps(schedule.decay, num_steps))
    share = min(1.0, max(0, step - start) / max(1, num_steps - start))
    fallen = (1 - math.cos(math.pi * share)) / 2 if schedule.name == "cosine" else share
    return 1.0 - (1.0 - schedule.floor) * fallen


def _steps(value: float, num_steps: int) -> int:
    return int(value) if value >= 1 else math.ceil(value * num_steps)
