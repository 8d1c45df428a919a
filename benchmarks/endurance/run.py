"""`yearling bench endurance`: speed and memory along one very long sequence.

The real engine reads a prompt of all tokens, chunk by chunk, and then answers. Whatever else the
machine does must not decide whether the end is as fast as the start, so the start is measured
again beside the end: a second engine of the same model reads the first tenth of the prompt while
the first engine reads the last tenth, step by step in turn, and then both answer in turn. Speeds
are of median steps; the end's share of the start's is the median over pairs of neighbouring steps,
so that a slow second of the machine counts on both sides or on none.

Memory is that of the process, at a tenth of the way and the most of all readings after it. The
list of known tokens exists from the start; malloc is told to give large blocks back, or the copy
that the list makes of itself at the first answered token would leave 8 MB behind or not, as the
heap happens to lie.
"""

import ctypes
import gc
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.endurance.tiny_models import CONFIGURATIONS, VOCABULARY, write_model
from yearling.core.errors import EngineError
from yearling.models.checkpoint import open_checkpoint
from yearling.serving.engine import Engine
from yearling.serving.executors.native import NativeExecutor
from yearling.serving.request import GenerationRequest, SamplingParams

__all__ = ["Course", "Report", "Settings", "run", "run_model"]

Progress = Callable[[str], None]

_LEAST_RATIO = 0.95
_MOST_GROWTH_MB = 4.0
_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        tokens: Length of the prompt.
        new_tokens: Tokens answered by each engine.
        step_tokens: Prompt tokens of one step.
    """

    tokens: int = 1_000_000
    new_tokens: int = 10_000
    step_tokens: int = 512


@dataclass(frozen=True, slots=True)
class Course:
    """What one model did along the sequence; speeds in tokens per second, memory in 10^6 bytes.

    Attributes:
        prefill_first: Of the first tenth of the prompt.
        prefill_last: Of its last tenth.
        decode_first: Of an answer behind the first tenth.
        decode_last: Of an answer behind the whole prompt.
        prefill_share: The last tenth's speed as a share of the first's, over pairs of steps.
        decode_share: The same of both answers.
        rss_at_tenth_mb: Resident memory after the first tenth of the prompt.
        rss_most_mb: The most resident memory of ten later readings, the last at the end.
        seconds: All of it together.
    """

    prefill_first: float
    prefill_last: float
    decode_first: float
    decode_last: float
    prefill_share: float
    decode_share: float
    rss_at_tenth_mb: float
    rss_most_mb: float
    seconds: float

    @property
    def ratio(self) -> float:
        """The worse of both speeds at the end, as a share of what it was at the start."""
        return min(self.prefill_share, self.decode_share)

    @property
    def growth_mb(self) -> float:
        """Memory taken after the first tenth."""
        return self.rss_most_mb - self.rss_at_tenth_mb

    @property
    def has_passed(self) -> bool:
        """Whether it ends as fast as it began, in the same memory."""
        return self.ratio >= _LEAST_RATIO and self.growth_mb <= _MOST_GROWTH_MB


@dataclass(frozen=True, slots=True)
class Report:
    """Courses by model."""

    settings: Settings
    courses: dict[str, Course]

    @property
    def has_passed(self) -> bool:
        """Whether every model has."""
        return all(course.has_passed for course in self.courses.values())

    def as_json(self) -> dict[str, Any]:
        """Everything for scripts."""
        courses = {
            name: asdict(course) | {"ratio": course.ratio, "growth_mb": course.growth_mb}
            for name, course in self.courses.items()
        }
        return {**asdict(self.settings), "courses": courses, "has_passed": self.has_passed}

    def as_text(self) -> str:
        """Everything for people."""
        settings = self.settings
        lines = [
            f"{settings.tokens:,} prompt tokens in steps of {settings.step_tokens}, and "
            f"{settings.new_tokens:,} tokens answered behind the first tenth and behind all",
            f"{'tokens per second':<10} {'prompt: first and last tenth':>32} "
            f"{'answer: behind tenth, all':>28} {'RSS MB: 10 %, most later':>24}",
        ]
        lines += [_line(name, course) for name, course in self.courses.items()]
        lines.append(
            f"ok: at least {_LEAST_RATIO:.0%} of the speed, at most {_MOST_GROWTH_MB:g} MB more."
            if self.has_passed
            else f"FAILED: less than {_LEAST_RATIO:.0%} of the speed, or more than "
            f"{_MOST_GROWTH_MB:g} MB more."
        )
        return "\n".join(lines)


def run(settings: Settings, progress: Progress) -> Report:
    """Run every model along the sequence."""
    courses = {}
    for name, config in CONFIGURATIONS.items():
        progress(f"{name}: {settings.tokens:,} tokens")
        courses[name] = run_model(config, settings)
    return Report(settings, courses)


def run_model(config: Mapping[str, Any], settings: Settings) -> Course:
    """Run one model along the sequence.

    Args:
        config: Its config.json.
        settings: Lengths; the prompt has twenty steps at least.

    Raises:
        EngineError: the engine ended a request with an error.
    """
    started = perf_counter()
    _return_large_blocks()
    prompt = np.random.default_rng(1).integers(0, VOCABULARY, settings.tokens).tolist()
    num_steps = -(-len(prompt) // settings.step_tokens)
    num_first = num_steps // 10
    with ExitStack() as stack:
        last, first = (stack.enter_context(_engine(config, settings)) for _ in range(2))
        last.begin(prompt, settings.new_tokens)
        first.begin(prompt[: num_first * settings.step_tokens], settings.new_tokens)
        last.run(num_first)
        resident = [_resident_mb()]
        for steps in _shares(num_steps - 2 * num_first, 7):
            last.run(steps)
            resident.append(_resident_mb())
        prefill = _in_turn(first, last, num_first)
        resident.append(_resident_mb())
        decode_parts = []
        for steps in _shares(settings.new_tokens - 1, 2):
            decode_parts.append(_in_turn(first, last, steps))
            resident.append(_resident_mb())
        decode = np.concatenate(decode_parts)
        return Course(
            prefill_first=settings.step_tokens / _median(prefill[:, 0]),
            prefill_last=settings.step_tokens / _median(prefill[:, 1]),
            decode_first=1.0 / _median(decode[:, 0]),
            decode_last=1.0 / _median(decode[:, 1]),
            prefill_share=_median(prefill[:, 0] / prefill[:, 1]),
            decode_share=_median(decode[:, 0] / decode[:, 1]),
            rss_at_tenth_mb=resident[0],
            rss_most_mb=max(resident[1:]),
            seconds=perf_counter() - started,
        )


class _Runner:
    """An engine with one request, run step by step."""

    def __init__(self, executor: NativeExecutor, context: int) -> None:
        self._engine = Engine(executor, None, context=context, eos_token_ids=())

    def begin(self, prompt: Sequence[int], new_tokens: int) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=new_tokens)
        self._engine.add(GenerationRequest("endurance", prompt, sampling))

    def run(self, num_steps: int) -> float:
        """Run some steps and give the seconds of the last."""
        seconds = 0.0
        for _ in range(num_steps):
            start = perf_counter()
            events = self._engine.step()
            seconds = perf_counter() - start
            for event in events:
                if event.error is not None:
                    raise EngineError(event.error)
        return seconds


@contextmanager
def _engine(config: Mapping[str, Any], settings: Settings) -> Iterator[_Runner]:
    """An engine over a new model, warm: it has filled its window once and forgotten it."""
    with tempfile.TemporaryDirectory() as folder:
        write_model(Path(folder), config)
        checkpoint = open_checkpoint(Path(folder))
        # A second thread has nothing to do in so small a model.
        executor = NativeExecutor.load(
            checkpoint,
            weights="float32",
            max_sequences=1,
            max_step_tokens=settings.step_tokens,
            threads=1,
        )
        checkpoint.close()
    runner = _Runner(executor, checkpoint.spec.context)
    runner.begin([0] * 4 * settings.step_tokens, 8)
    runner.run(4 + 8)
    yield runner
    executor.close()


def _in_turn(first: _Runner, last: _Runner, num_steps: int) -> NDArray[np.float64]:
    """Run two engines step by step in turn; the seconds of each step [num_steps, 2].

    Each goes first in every second pair.
    """
    seconds = np.empty((num_steps, 2))
    runners = (first, last)
    for pair in range(num_steps):
        for turn in (pair % 2, 1 - pair % 2):
            seconds[pair, turn] = runners[turn].run(1)
    return seconds


def _shares(total: int, parts: int) -> list[int]:
    """A number of steps in equal parts, the last with the rest."""
    return [total // parts] * (parts - 1) + [total - total // parts * (parts - 1)]


def _return_large_blocks() -> None:
    """Let glibc map blocks from 128 KiB on by themselves, whatever was freed before."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 128 * 1024)


def _resident_mb() -> float:
    """Resident memory of this process now, in 10^6 bytes."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * _PAGE_BYTES / 1e6


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


def _line(name: str, course: Course) -> str:
    return (
        f"{name:<10} "
        f"{course.prefill_first:12,.0f} {course.prefill_last:10,.0f} "
        f"{course.prefill_share:7.1%} "
        f"{course.decode_first:12,.0f} {course.decode_last:10,.0f} "
        f"{course.decode_share:7.1%} "
        f"{course.rss_at_tenth_mb:10.1f} {course.rss_most_mb:8.1f} {course.growth_mb:+6.1f}"
        f"   {course.seconds:.0f} s"
    )
