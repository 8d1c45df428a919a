"""The loss curve of a run as a picture."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yearling.core.errors import UnsupportedError

__all__ = ["draw_curve", "smooth"]

_SMOOTHING = 0.9


def draw_curve(lines: Sequence[Mapping[str, Any]], path: Path, *, title: str = "") -> None:
    """Draw the loss by step, as it was and smoothed, and that of validations.

    Args:
        lines: Of metrics.jsonl.
        path: Picture to write; its suffix decides the format, .png or .svg.
        title: Stands above it.
    Raises:
        UnsupportedError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise UnsupportedError(
            "the picture of the loss needs matplotlib, which is not installed.\n"
            "  pip install matplotlib; metrics.jsonl has the figures."
        ) from None
    # A Figure without pyplot needs no screen and leaves no state behind.
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    steps, losses = _series(lines, "loss")
    axes.plot(steps, losses, color="#9bb7d4", linewidth=0.8, label="loss")
    axes.plot(steps, smooth(losses), color="#1f4e79", linewidth=1.6, label="smoothed")
    steps, losses = _series(lines, "validation_loss")
    if steps:
        axes.plot(steps, losses, color="#c0504d", marker="o", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def smooth(values: Sequence[float]) -> list[float]:
    """Average each value with those before it, the nearest most; the start is not biased to 0.

    >>> smooth([2.0, 2.0, 2.0])
    [2.0, 2.0, 2.0]
    """
    total, weight, smoothed = 0.0, 0.0, []
    for value in values:
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        smoothed.append(total / weight)
    return smoothed


def _series(lines: Sequence[Mapping[str, Any]], name: str) -> tuple[list[int], list[float]]:
    found = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    return [step for step, _ in found], [value for _, value in found]
