"""`yearling bench growth`: how speed changes with the context, the streams and the model's size.

A point of context is one stream's speed behind a prompt of so many tokens: the tokens after the
first, over the time after it. A point of streams is the speed of so many short answers together. A
point of size is one stream's speed, behind 256 tokens, of a model of random weights. Engines follow
each other at every point, so they meet the same minute of the machine.
"""

import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.peers import PEER_FILES, make_peer_files, peer_python
from benchmarks.serving.engine_process import BenchmarkError, EngineCommand, EngineProcess
from benchmarks.serving.machine import BusyWatch, busy_load
from benchmarks.serving.prepare import requantised_file
from benchmarks.serving.report import OURS
from benchmarks.serving.session import Progress
from benchmarks.serving.sized_models import SHAPES, sized_model
from benchmarks.serving.workload import Phase, Timing, english_text

__all__ = ["GrowthReport", "GrowthSettings", "run_growth"]

PEERS = ("llama.cpp", "openvino")

_ENGINES = "benchmarks.serving.engines"
_CONTEXTS = (256, 512, 1024, 2048, 4096, 8000)
_STREAMS = (1, 2, 4, 8, 16, 32, 64, 128)
_CONTEXT_TOKENS = 8192
_SHORT_PROMPT_TOKENS = 16
_SIZED_CONTEXT = 256

Curves = dict[str, dict[str, dict[int, float]]]
"""Tokens per second by axis, engine and point."""


@dataclass(frozen=True, slots=True)
class GrowthSettings:
    """One run.

    Attributes:
        model: Store name or GGUF path.
        peers: Names out of `PEERS`.
        repeats: Rounds; the medians are told.
        new_tokens: Tokens of each answer.
    """

    model: str = "smollm2"
    peers: tuple[str, ...] = PEERS
    repeats: int = 3
    new_tokens: int = 48


@dataclass(frozen=True, slots=True)
class GrowthReport:
    """What a run found.

    Attributes:
        curves: `context`, `streams` and `size`, in millions of parameters.
        warnings: What may have disturbed it.
    """

    curves: Curves
    warnings: Sequence[str]

    def as_text(self) -> str:
        """A table for each axis."""
        parts = []
        for axis, by_engine in self.curves.items():
            names = list(by_engine)
            rows = [[axis, *names]]
            for point in next(iter(by_engine.values())):
                speeds = [f"{by_engine[name][point]:.0f}" for name in names]
                rows.append([str(point), *speeds])
            widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
            parts.append(
                "\n".join(
                    "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
                    for row in rows
                )
            )
        return "\n\n".join(["Tokens per second, medians", *parts, *self.warnings])

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {"tokens_per_second": self.curves, "warnings": list(self.warnings)}

    def draw(self, path: Path) -> None:
        """Draw the axes side by side, as the suffix says."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(14, 4), layout="constrained")
        labels = {
            "context": "tokens of context, one stream",
            "streams": "streams",
            "size": "millions of parameters, one stream",
        }
        for axes, (axis, by_engine) in zip(
            figure.subplots(1, len(self.curves)), self.curves.items(), strict=True
        ):
            for name, curve in by_engine.items():
                axes.plot(list(curve), list(curve.values()), marker="o", markersize=3, label=name)
            axes.set(xscale="log", xlabel=labels[axis], ylabel="tokens per second", ylim=(0, None))
            points = list(next(iter(by_engine.values())))
            axes.set_xticks(points, [str(point) for point in points])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})


def run_growth(settings: GrowthSettings, progress: Progress) -> GrowthReport:
    """Measure every axis.

    Raises:
        BenchmarkError: a peer is unknown or not installed, or an engine fails.
    """
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.store import resolve

    path = resolve(settings.model)
    if "llama.cpp" in settings.peers:
        make_peer_files(path)
    tokenizer = open_checkpoint(path).tokenizer()
    if tokenizer is None:
        raise BenchmarkError(f"{path} carries no tokenizer to cut prompts with.")
    tokens = tokenizer.encode(english_text())
    watch, load_warning = BusyWatch(), busy_load()
    runner = _Runner(settings, tokens, watch, progress)
    sized = [sized_model(shape, path, PEER_FILES) for shape in SHAPES]
    curves: Curves = {
        axis: runner.speeds(axis, points, _commands(settings.peers, path, axis))
        for axis, points in (("context", _CONTEXTS), ("streams", _STREAMS))
    }
    by_size: dict[str, dict[int, float]] = defaultdict(dict)
    for model, parameters in sized:
        speeds = runner.speeds("size", [_SIZED_CONTEXT], _commands(settings.peers, model, "size"))
        for name, by_point in speeds.items():
            by_size[name][round(parameters / 1e6)] = by_point[_SIZED_CONTEXT]
    curves["size"] = dict(by_size)
    return GrowthReport(curves, [*([load_warning] if load_warning else []), *watch.warnings()])


@dataclass(frozen=True, slots=True)
class _Runner:
    settings: GrowthSettings
    tokens: Sequence[int]
    watch: BusyWatch
    progress: Progress

    def speeds(
        self, axis: str, points: Sequence[int], commands: Sequence[EngineCommand]
    ) -> dict[str, dict[int, float]]:
        """Median speed of each engine at each point."""
        samples: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
        with ExitStack() as stack:
            engines = [stack.enter_context(EngineProcess(command)) for command in commands]
            for repeat in range(-1, self.settings.repeats):  # the first warms up
                for point in points:
                    phase = _phase(axis, point, repeat, self.tokens, self.settings.new_tokens)
                    for engine in engines:
                        where = f"{engine.name} {axis} {point}"
                        self.progress(f"{where}, round {repeat + 1}")
                        with self.watch.during(where, engine.pid):
                            timing = engine.run(phase)
                        if repeat >= 0:
                            samples[engine.name][point].append(_speed(phase, timing))
        return {
            name: {point: median(values) for point, values in by_point.items()}
            for name, by_point in samples.items()
        }


def _commands(peers: tuple[str, ...], model: Path, axis: str) -> list[EngineCommand]:
    if unknown := [peer for peer in peers if peer not in PEERS]:
        raise BenchmarkError(f"unknown peers {', '.join(unknown)}: there are {', '.join(PEERS)}.")
    commands = [EngineCommand(OURS, Path(sys.executable), f"{_ENGINES}.yearling", model)]
    if "llama.cpp" in peers:
        slots = max(_STREAMS) if axis == "streams" else 1
        commands.append(
            EngineCommand(
                "llama.cpp",
                peer_python(),
                f"{_ENGINES}.llama_cpp",
                model if axis == "size" else requantised_file(model, PEER_FILES),
                {"slots": slots, "slot_tokens": _CONTEXT_TOKENS if slots == 1 else 128},
            )
        )
    if "openvino" in peers:
        commands.append(EngineCommand("openvino", peer_python(), f"{_ENGINES}.openvino", model))
    return commands


def _phase(axis: str, point: int, repeat: int, tokens: Sequence[int], new_tokens: int) -> Phase:
    size, count = (_SHORT_PROMPT_TOKENS, point) if axis == "streams" else (point, 1)
    start = (repeat + 1) * 7919 + 131 * point  # no two phases share a beginning
    prompts = tuple(
        tuple(tokens[(start + n * size + i) % len(tokens)] for i in range(size))
        for n in range(count)
    )
    return Phase(axis, prompts, new_tokens, is_streamed=axis != "streams")


def _speed(phase: Phase, timing: Timing) -> float:
    expected = phase.new_tokens * len(phase.prompts)
    if timing.new_tokens != expected:
        raise BenchmarkError(f"{phase.metric}: {timing.new_tokens} tokens came, not {expected}.")
    if not phase.is_streamed:
        return expected / timing.seconds
    if timing.first_token_seconds is None:
        raise BenchmarkError(f"{phase.metric}: the engine streamed nothing.")
    return (expected - 1) / (timing.seconds - timing.first_token_seconds)
