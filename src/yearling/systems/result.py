"""A measured result: the figures of every seed, of the ablation, and what they depend on.

A result is committed with the code, in `systems/results/<slug>.json`.
"""

import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, ValidationError

from yearling.core.config import Config
from yearling.core.errors import CatalogueError
from yearling.systems.system import System

__all__ = [
    "RESULTS",
    "Machine",
    "Result",
    "ResultCurve",
    "read_result",
    "this_machine",
    "write_result",
]

RESULTS = Path(__file__).with_name("results")


class Machine(Config):
    """Where a result was measured."""

    processor: str = Field(description="Name of the processor.")
    cores: int = Field(description="Cores that the run could use.")
    system: str = Field(description="Operating system and architecture.")
    python: str = Field(description="Version of Python.")


class ResultCurve(Config):
    """A line of the chart of a result."""

    name: str = Field(description="Of the line.")
    x_label: str = Field(description="Quantity and unit along the chart.")
    y_label: str = Field(description="Quantity and unit upwards.")
    points: tuple[tuple[float, float], ...] = Field(description="In the order they are joined.")


class Result(Config):
    """What a run of a system measured, and on what it depends."""

    slug: str = Field(description="The system.")
    version: str = Field(description="Version of Yearling.")
    created: str = Field(description="Time in UTC, ISO 8601, to the second.")
    machine: Machine = Field(description="Where.")
    seeds: tuple[int, ...] = Field(description="Seeds, in the order of the values.")
    figures: Mapping[str, tuple[float, ...]] = Field(description="Values of each, one per seed.")
    ablated: Mapping[str, tuple[float | None, ...]] = Field(
        description="The same with the essential part off; null is not a finite number."
    )
    seconds: tuple[float, ...] = Field(description="Time of each seed.")
    ablation_seconds: float = Field(description="Time of the ablation.")
    curves: tuple[ResultCurve, ...] = Field(default=(), description="Of the first seed.")
    sources: Mapping[str, str] = Field(description="Hash of each module of ours it depends on.")

    def problems(self, system: System) -> list[str]:
        """Say which checks the figures do not keep, and which prove nothing."""
        return [*self.failed_checks(system), *self.idle_checks(system)]

    def failed_checks(self, system: System) -> list[str]:
        """Say which checks the figures do not keep."""
        return [
            f"{check.name} is {check.judged(values):.4g} {check.unit} and must be {check.bound}"
            for check in system.checks
            if not check.holds(values := self.figures[check.name])
        ]

    def idle_checks(self, system: System) -> list[str]:
        """Say which checks hold although the ablation should break them."""
        checks = {check.name: check for check in system.checks}
        return [
            f"{name} still keeps its bound ({checks[name].bound}) with {system.ablation.what}: a "
            "check that cannot fail"
            for name in system.ablation.breaks
            if checks[name].holds([_number(value) for value in self.ablated[name]])
        ]


def read_result(slug: str, folder: Path = RESULTS) -> Result | None:
    """Give the committed result of a system, or None where there is none.

    Raises:
        CatalogueError: the file is not a result.
    """
    file = folder / f"{slug}.json"
    try:
        return Result.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise CatalogueError(f"{file} is not a result: {error}") from error


def write_result(result: Result, folder: Path = RESULTS) -> Path:
    """Write a result where the catalogue reads it, and give its path."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{result.slug}.json"
    part = file.with_suffix(".part")
    part.write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    part.replace(file)
    return file


def this_machine() -> Machine:
    """Describe the machine that this process runs on."""
    return Machine(
        processor=_processor(),
        cores=len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
    )


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return platform.processor() or platform.machine()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1).strip() if found else platform.machine()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
