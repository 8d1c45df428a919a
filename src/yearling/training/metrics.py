"""Where a run's figures go: metrics.jsonl always, TensorBoard and Weights & Biases on request."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from yearling.core.errors import UnsupportedError
from yearling.training.hooks import StepReport, ValidationReport

__all__ = [
    "METRICS_FILE",
    "MetricsFile",
    "MetricsWriter",
    "open_writers",
    "read_metrics",
    "step_figures",
    "validation_figures",
]

METRICS_FILE = "metrics.jsonl"
_LARGEST_EXPONENT = 700.0


class MetricsWriter(Protocol):
    """Takes the figures of a step or a validation."""

    def write(self, figures: Mapping[str, Any]) -> None:
        """Take figures by name; `step` is one of them."""
        ...

    def close(self) -> None:
        """Bring everything to its place."""
        ...


def step_figures(report: StepReport) -> dict[str, Any]:
    """Give a step's figures: those of the first update by plain names, others behind theirs."""
    figures: dict[str, Any] = {"step": report.step, "epoch": _rounded(report.epoch)}
    for number, (name, update) in enumerate(report.updates.items()):
        prefix = f"{name}/" if number else ""
        figures[name] = update.loss
        figures[f"{prefix}lr"] = update.lr
        figures[f"{prefix}grad_norm"] = update.grad_norm
        figures.update({f"{prefix}{key}": value for key, value in update.metrics.items()})
    seconds = report.step_seconds
    return {
        **figures,
        "tokens": report.total_tokens,
        "tokens_per_second": _rounded(report.tokens / seconds if seconds else None),
        "seconds": _rounded(report.seconds),
    }


def validation_figures(report: ValidationReport, *, has_perplexity: bool) -> dict[str, Any]:
    """Give a validation's figures.

    Args:
        report: What the loop found.
        has_perplexity: Whether the loss is a mean over tokens, in nats.
    """
    figures: dict[str, Any] = {"step": report.step, "validation_loss": report.loss}
    if has_perplexity:
        is_small = report.loss < _LARGEST_EXPONENT
        figures["validation_perplexity"] = math.exp(report.loss) if is_small else math.inf
    figures.update({f"validation_{key}": value for key, value in report.metrics.items()})
    return {**figures, "is_best": report.is_best}


class MetricsFile:
    """metrics.jsonl: one JSON object a line, on disk before the next step begins.

    What is not a finite number is null there, since JSON has no word for it.
    """

    def __init__(self, path: Path, *, last_step: int = 0) -> None:
        """Open the file.

        Args:
            path: The file; its folder exists.
            last_step: Where the run goes on: lines of later steps, which a crash left behind
                the last checkpoint, are removed. 0 begins a new file.
        """
        kept = [line for line in read_metrics(path) if line["step"] <= last_step]
        part = path.with_name(path.name + ".part")
        part.write_text("".join(_line(figures) for figures in kept), encoding="utf-8")
        part.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def write(self, figures: Mapping[str, Any]) -> None:
        """Append a line."""
        self._file.write(_line(figures))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a metrics file; a last one that was cut short is left out."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def open_writers(names: Sequence[str], folder: Path) -> list[MetricsWriter]:
    """Open writers besides the file.

    Args:
        names: `tensorboard`, `wandb`.
        folder: Of the run.
    Raises:
        UnsupportedError: a package is not installed.
    """
    return [_WRITERS[name](folder) for name in names]


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        _package("tensorboard", "tensorboard")
        from torch.utils.tensorboard.writer import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write(self, figures: Mapping[str, Any]) -> None:
        for name, value in figures.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, float(value), figures["step"])

    def close(self) -> None:
        self._writer.close()


class _WeightsAndBiases:
    def __init__(self, folder: Path) -> None:
        wandb: Any = _package("wandb", "wandb")
        self._run = wandb.init(project="yearling", name=folder.name, dir=str(folder))

    def write(self, figures: Mapping[str, Any]) -> None:
        values = {name: value for name, value in figures.items() if name != "step"}
        self._run.log(values, step=figures["step"])

    def close(self) -> None:
        self._run.finish()


_WRITERS: Mapping[str, Callable[[Path], MetricsWriter]] = {
    "tensorboard": _TensorBoard,
    "wandb": _WeightsAndBiases,
}


def _package(module: str, distribution: str) -> Any:
    try:
        return import_module(module)
    except ModuleNotFoundError:
        raise UnsupportedError(
            f"report_to: {module} needs the package {distribution}, which is not installed.\n"
            f"  pip install {distribution}, or leave it out: metrics.jsonl has every figure.",
            parameter="report_to",
        ) from None


def _line(figures: Mapping[str, Any]) -> str:
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
    return json.dumps(finite, ensure_ascii=False) + "\n"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
