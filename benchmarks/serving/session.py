"""The order of a run: engines alternate within each phase, rounds repeat, medians remain."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from benchmarks.serving.engine_process import EngineCommand, EngineProcess
from benchmarks.serving.machine import BusyWatch
from benchmarks.serving.metrics import Summary, summarise
from benchmarks.serving.workload import Phase, Timing, Workload

__all__ = ["MeasuredEngine", "Progress", "Session", "alternate", "measure"]

Progress = Callable[[str], None]

_WARM_UP_REPEAT = -1
_LEAST_LOADS = 5  # of a run with more than one round: they take seconds, and differ by half


class MeasuredEngine(Protocol):
    """The part of `EngineProcess` that the rounds need."""

    name: str
    load_seconds: float
    description: str

    @property
    def pid(self) -> int:
        """Number of the process."""
        ...

    def gives(self, metric: str) -> bool:
        """Whether it is measured on a metric."""
        ...

    def run(self, phase: Phase) -> Timing:
        """Run one phase."""
        ...


@dataclass(frozen=True, slots=True)
class Session:
    """What a run found.

    Attributes:
        summaries: Engine, then metric.
        descriptions: The configuration each engine ran with.
    """

    summaries: Mapping[str, Mapping[str, Summary]]
    descriptions: Mapping[str, str]


def measure(
    commands: Sequence[EngineCommand],
    workload: Workload,
    *,
    repeats: int,
    watch: BusyWatch,
    progress: Progress,
) -> Session:
    """Start every engine `repeats` times, or five, for its load time, then run the rounds.

    Raises:
        BenchmarkError: an engine cannot be measured.
    """
    loads: dict[str, list[float]] = defaultdict(list)
    timed = [command for command in commands if command.gives("load_seconds")]
    num_loads = max(repeats, _LEAST_LOADS) if repeats > 1 else repeats
    for repeat in range(1, num_loads):
        for command in timed:
            progress(f"load {repeat}/{num_loads}: {command.name}")
            with EngineProcess(command) as engine:
                loads[engine.name].append(engine.load_seconds)
    with ExitStack() as stack:
        running: list[EngineProcess] = []
        for command in commands:
            progress(f"load {num_loads}/{num_loads}: {command.name}")
            running.append(stack.enter_context(EngineProcess(command)))
        samples = alternate(running, workload, repeats=repeats, watch=watch, progress=progress)
    for engine in running:
        if engine.gives("load_seconds"):
            samples[engine.name]["load_seconds"] = [*loads[engine.name], engine.load_seconds]
    return Session(
        {
            name: {metric: summarise(values) for metric, values in by_metric.items()}
            for name, by_metric in samples.items()
        },
        {engine.name: engine.description for engine in running},
    )


def alternate(
    engines: Sequence[MeasuredEngine],
    workload: Workload,
    *,
    repeats: int,
    watch: BusyWatch,
    progress: Progress,
) -> dict[str, dict[str, list[float]]]:
    """Run the rounds and give the samples by engine and metric; peak memory is the last seen.

    Within a phase the engines follow each other at once, so they meet the same minute of the
    machine; which one goes first moves on with the round.
    """
    samples: dict[str, dict[str, list[float]]] = {
        engine.name: defaultdict(list) for engine in engines
    }
    for phase in workload.phases(_WARM_UP_REPEAT):
        for engine in _measured_on(phase, engines):
            progress(f"warm-up: {phase.metric}, {engine.name}")
            engine.run(phase)
    for repeat in range(repeats):
        first = repeat % len(engines)
        for phase in workload.phases(repeat):
            for engine in _measured_on(phase, [*engines[first:], *engines[:first]]):
                progress(f"round {repeat + 1}/{repeats}: {phase.metric}, {engine.name}")
                with watch.during(f"{engine.name} {phase.metric}", engine.pid):
                    timing = engine.run(phase)
                samples[engine.name][phase.metric].append(phase.figure(timing))
                if engine.gives("peak_rss_mb"):
                    samples[engine.name]["peak_rss_mb"] = [timing.peak_rss_mb]
    return samples


def _measured_on(phase: Phase, engines: Sequence[MeasuredEngine]) -> list[MeasuredEngine]:
    return [engine for engine in engines if engine.gives(phase.metric)]
