"""The figures of a run: their names, units and direction, medians, and ratios."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["METRICS", "Metric", "Summary", "best_of", "ratio", "summarise"]


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure.

    Attributes:
        name: As in the JSON file.
        unit: `tokens/s`, `s` or `MB`.
        is_higher_better: Whether a larger figure is the better one.
        meaning: What exactly is timed, in one sentence.
    """

    name: str
    unit: str
    is_higher_better: bool
    meaning: str


METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("decode_1", "tokens/s", True, "new tokens over wall time, 1 stream, short prompt"),
        Metric("decode_8", "tokens/s", True, "the same with 8 streams submitted at once"),
        Metric("decode_32", "tokens/s", True, "the same with 32 streams submitted at once"),
        Metric("prefill_1000", "tokens/s", True, "a cold prompt of 1,000 tokens, one new token"),
        Metric("ttft", "s", False, "time to the first streamed token, cold prompt of 1,000"),
        Metric(
            "ttft_shared_prefix",
            "s",
            False,
            "the same when an earlier request had the same first 1,000 tokens",
        ),
        Metric(
            "load_seconds",
            "s",
            False,
            "from the constructor's call to a first token; library imported, file in page cache",
        ),
        Metric("peak_rss_mb", "MB", False, "highest resident memory of the process, all phases"),
    )
}


@dataclass(frozen=True, slots=True)
class Summary:
    """Median and extremes of one metric of one engine."""

    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """Distance between the extremes as a share of the median.

        >>> Summary(median=10.0, low=9.0, high=12.0, count=5).spread
        0.3
        """
        return (self.high - self.low) / self.median if self.median else 0.0


def summarise(samples: Sequence[float]) -> Summary:
    """Give median and extremes.

    Raises:
        ValueError: there are no samples.

    >>> summarise([3.0, 1.0, 2.0])
    Summary(median=2.0, low=1.0, high=3.0, count=3)
    """
    if not samples:
        raise ValueError("no samples: the phase never ran")
    return Summary(statistics.median(samples), min(samples), max(samples), len(samples))


def ratio(name: str, ours: float, theirs: float) -> float:
    """Compare two figures so that above 1 always means ours is better.

    Raises:
        ValueError: a figure is not positive, so no run produced it.

    >>> ratio("decode_1", ours=200.0, theirs=100.0)
    2.0
    >>> ratio("ttft", ours=0.5, theirs=1.0)
    2.0
    """
    if ours <= 0 or theirs <= 0:
        raise ValueError(f"{name}: figures must be positive, got {ours} (ours) and {theirs}")
    return ours / theirs if METRICS[name].is_higher_better else theirs / ours


def best_of(name: str, figures: Sequence[float]) -> float:
    """Pick the better figure: the highest rate, the shortest time, the least memory.

    >>> best_of("ttft", [2.0, 1.0]), best_of("decode_8", [2.0, 1.0])
    (1.0, 2.0)
    """
    return max(figures) if METRICS[name].is_higher_better else min(figures)
