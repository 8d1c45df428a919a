"""One stream beside a busy neighbour: an endless Python loop, unpinned or pinned to core 0."""

import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from benchmarks.serving.metrics import summarise
from benchmarks.serving.session import MeasuredEngine, Progress
from benchmarks.serving.workload import Workload

__all__ = ["NeighbourFigures", "Placement", "busy_neighbour", "measure_neighbour"]

Placement = Literal["quiet", "unpinned", "pinned"]
_PLACEMENTS: tuple[Placement, ...] = ("quiet", "unpinned", "pinned")

_PROGRAM = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
if sys.argv[1] == "pinned":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print("spinning", flush=True)
while True:
    pass
"""


@dataclass(frozen=True, slots=True)
class NeighbourFigures:
    """One-stream tokens/s in company, as medians."""

    quiet: float
    unpinned: float
    pinned: float

    @property
    def unpinned_share(self) -> float:
        """Share of the quiet speed that is left.

        >>> NeighbourFigures(quiet=100.0, unpinned=60.0, pinned=50.0).unpinned_share
        0.6
        """
        return self.unpinned / self.quiet

    @property
    def pinned_share(self) -> float:
        """The same with the neighbour pinned to the first core."""
        return self.pinned / self.quiet


@contextmanager
def busy_neighbour(placement: Placement) -> Iterator[None]:
    """Keep one core busy while the block runs; `quiet` starts nothing."""
    if placement == "quiet":
        yield
        return
    spinner = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, placement], stdout=subprocess.PIPE, text=True
    )
    try:
        assert spinner.stdout is not None
        spinner.stdout.readline()
        yield
    finally:
        spinner.kill()
        spinner.wait()
        if spinner.stdout is not None:
            spinner.stdout.close()


def measure_neighbour(
    engines: Sequence[MeasuredEngine], workload: Workload, *, repeats: int, progress: Progress
) -> Mapping[str, NeighbourFigures]:
    """Measure every engine quiet, beside a free loop and beside a pinned one, in turns."""
    samples: dict[tuple[str, Placement], list[float]] = defaultdict(list)
    for repeat in range(-1, repeats):
        phase = workload.one_stream(repeat)
        for engine in engines:
            for placement in _PLACEMENTS if repeat >= 0 else _PLACEMENTS[:1]:
                progress(f"neighbour {repeat + 1}/{repeats}: {placement}, {engine.name}")
                with busy_neighbour(placement):
                    figure = phase.figure(engine.run(phase))
                if repeat >= 0:
                    samples[engine.name, placement].append(figure)
    return {
        engine.name: NeighbourFigures(
            *(summarise(samples[engine.name, placement]).median for placement in _PLACEMENTS)
        )
        for engine in engines
    }
