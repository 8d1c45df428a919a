"""Where figures go: every line on disk, NaN as null, truncation, writers, the picture."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from yearling.core.errors import UnsupportedError
from yearling.training.curve import draw_curve, smooth
from yearling.training.hooks import StepReport, UpdateReport, ValidationReport
from yearling.training.metrics import (
    MetricsFile,
    open_writers,
    read_metrics,
    step_figures,
    validation_figures,
)
from yearling.training.progress import training_bar


def report(step: int = 3, loss: float = 2.0) -> StepReport:
    updates = {
        "loss": UpdateReport(loss, 1e-3, 0.5, {"accuracy": 0.75}),
        "discriminator": UpdateReport(0.1, 2e-3, 0.25, {"accuracy": 0.5}),
    }
    return StepReport(step, updates, 100, 300, 0.5, 2.0, 1.25)


def test_figures_of_later_updates_stand_behind_their_names() -> None:
    assert step_figures(report()) == {
        "step": 3,
        "epoch": 1.25,
        "loss": 2.0,
        "lr": 1e-3,
        "grad_norm": 0.5,
        "accuracy": 0.75,
        "discriminator": 0.1,
        "discriminator/lr": 2e-3,
        "discriminator/grad_norm": 0.25,
        "discriminator/accuracy": 0.5,
        "tokens": 300,
        "tokens_per_second": 200.0,
        "seconds": 2.0,
    }


def test_perplexity_is_given_for_losses_of_tokens_alone() -> None:
    found = ValidationReport(4, math.log(8), {"accuracy": 0.5}, is_best=True)
    figures = validation_figures(found, has_perplexity=True)
    assert figures["validation_perplexity"] == pytest.approx(8)
    assert figures["validation_accuracy"] == 0.5
    assert "validation_perplexity" not in validation_figures(found, has_perplexity=False)
    huge = ValidationReport(4, 1e6, {}, is_best=False)
    assert validation_figures(huge, has_perplexity=True)["validation_perplexity"] == math.inf


def test_each_line_is_on_disk_when_it_is_written(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write({"step": 1, "loss": 2.5})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, "loss": 2.5}]
    file.close()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null(tmp_path: Path, value: float) -> None:
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(step_figures(report(loss=value)))
    file.close()
    (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()

    def refuse(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    assert json.loads(line, parse_constant=refuse)["loss"] is None


def test_resumed_file_loses_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 2}) + "\n" for step in (1, 2, 3, 4)]
    path.write_text("".join(lines) + '{"step": 5, "lo')
    MetricsFile(path, last_step=2).close()
    assert path.read_text() == "".join(lines[:2])
    MetricsFile(path).close()
    assert path.read_text() == ""


def test_tensorboard_gets_every_figure(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (writer,) = open_writers(["tensorboard"], tmp_path)
    for step in (1, 2):
        writer.write(step_figures(report(step, loss=float(step))))
    writer.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1.0), (2, 2.0)]


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("yearling.training.metrics.import_module", absent)
    with pytest.raises(UnsupportedError, match=r"needs the package wandb.*\n.*pip install wandb"):
        open_writers(["wandb"], tmp_path)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_curve_is_drawn_with_gaps_where_there_is_no_number(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("matplotlib")
    lines: list[dict[str, Any]] = [{"step": step, "loss": 1 / step} for step in range(1, 9)]
    lines += [{"step": 8, "validation_loss": 0.3}, {"step": 9, "loss": None}]
    draw_curve(lines, tmp_path / f"loss.{suffix}", title="a run")
    start = (tmp_path / f"loss.{suffix}").read_bytes()[:400]
    assert (
        start.startswith(b"\x89PNG") if suffix == "png" else b"<svg" in start or b"<?xml" in start
    )


def test_smoothing_is_a_mean_of_what_came_before() -> None:
    found = smooth([1.0, 0.0, 0.0])
    assert found == pytest.approx([1.0, 0.09 / 0.19, 0.081 / 0.271])


def test_bar_says_loss_and_speed_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with training_bar(10) as show:
        show(report())
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with training_bar(10) as show:
        show(report())
    shown = capsys.readouterr().err
    assert "3/10" in shown
    assert "loss 2.0000" in shown
    assert "200 tokens/s" in shown
