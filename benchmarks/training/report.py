"""A run as a table for people and as JSON for scripts."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["OURS", "Report", "Sample"]

OURS = "yearling"
PEER = "trl"
_LEAST_SPEED = 1.5
_MOST_LOSS_DIFFERENCE = 0.01


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one trainer; memory in 10^6 bytes."""

    tokens_per_second: float
    peak_rss_mb: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        samples: Runs of each trainer; `trl/1-padded` and the like are settings of one peer.
        losses: Loss of every step over the same batches, by trainer; empty when left out.
        descriptions: Configuration by trainer.
        warnings: What makes the figures doubtful.
    """

    samples: Mapping[str, Sequence[Sample]]
    losses: Mapping[str, Sequence[float]]
    descriptions: Mapping[str, str]
    warnings: Sequence[str] = ()

    def results(self) -> dict[str, dict[str, float]]:
        """Median speed and most memory of each trainer; the peer's best of each as its own."""
        found = {
            name: {
                "tokens_per_second": statistics.median(s.tokens_per_second for s in samples),
                "peak_rss_mb": max(s.peak_rss_mb for s in samples),
            }
            for name, samples in self.samples.items()
        }
        if forms := [figures for name, figures in found.items() if name != OURS]:
            found[PEER] = {
                "tokens_per_second": max(figures["tokens_per_second"] for figures in forms),
                "peak_rss_mb": min(figures["peak_rss_mb"] for figures in forms),
            }
        return found

    def ratios(self) -> dict[str, dict[str, float]]:
        """Ours against the peer's best of each; above 1 means ours is better."""
        results = self.results()
        if PEER not in results:
            return {}
        ours, theirs = results[OURS], results[PEER]
        speed = ours["tokens_per_second"] / theirs["tokens_per_second"]
        return {
            PEER: {
                "tokens_per_second": speed,
                "peak_rss_mb": theirs["peak_rss_mb"] / ours["peak_rss_mb"],
            }
        }

    def loss_difference(self) -> float | None:
        """Mean loss of ours over the peer's, less one."""
        if len(self.losses) < 2:
            return None
        ours = statistics.mean(self.losses[OURS])
        (theirs,) = (values for name, values in self.losses.items() if name != OURS)
        return ours / statistics.mean(theirs) - 1

    @property
    def has_passed(self) -> bool:
        """Whether ours is as fast, as lean and as right as promised, where that was measured."""
        difference = self.loss_difference()
        is_right = difference is None or abs(difference) <= _MOST_LOSS_DIFFERENCE
        ratios = self.ratios().get(PEER)
        is_fast = ratios is None or ratios["tokens_per_second"] >= _LEAST_SPEED
        return is_right and is_fast and (ratios is None or ratios["peak_rss_mb"] >= 1)

    def as_json(self) -> dict[str, Any]:
        """Everything for scripts, in the form of the serving benchmark."""
        return {
            "results": self.results(),
            "ratios": self.ratios(),
            "units": {"tokens_per_second": "tokens/s", "peak_rss_mb": "MB"},
            "losses": {name: list(values) for name, values in self.losses.items()},
            "loss_difference": self.loss_difference(),
            "configurations": dict(self.descriptions),
            "warnings": list(self.warnings),
            "has_passed": self.has_passed,
        }

    def as_text(self) -> str:
        """Everything for people."""
        lines = ["LoRA r = 16 on all linear layers: tokens of rows a second, peak memory, runs"]
        for name, figures in self.results().items():
            count = len(self.samples.get(name, ()))
            lines.append(
                f"  {name:<14} {figures['tokens_per_second']:7.1f} tokens/s "
                f"{figures['peak_rss_mb']:8.0f} MB  {count or 'best of each'}"
            )
        for peer, ratios in self.ratios().items():
            lines.append(
                f"ours / fastest of {peer}: {ratios['tokens_per_second']:.2f} (at least "
                f"{_LEAST_SPEED}); leanest of {peer} / ours: {ratios['peak_rss_mb']:.2f} "
                "(at least 1)"
            )
        if (difference := self.loss_difference()) is not None:
            steps = len(self.losses[OURS])
            lines.append(
                f"mean loss over {steps} steps of the same batches: {difference:+.2%} "
                f"(at most {_MOST_LOSS_DIFFERENCE:.0%} either way)"
            )
        lines.append("ok" if self.has_passed else "FAILED")
        lines += [f"{name}: {text}" for name, text in self.descriptions.items()]
        return "\n".join([*lines, *(f"WARNING: {warning}" for warning in self.warnings)])
