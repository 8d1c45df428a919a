"""The bar of a run: steps, loss, tokens a second and the time left; on a terminal alone."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from yearling.training.hooks import StepReport

__all__ = ["training_bar"]


@contextmanager
def training_bar(num_steps: int, done: int = 0) -> Iterator[Callable[[StepReport], None]]:
    """Give a function to be told of each step; it draws on stderr where somebody looks.

    Args:
        num_steps: Of the whole run.
        done: Steps that an earlier part of the run has done.
    """
    if not sys.stderr.isatty():
        yield lambda report: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("training"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[speed]} tokens/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("training", total=num_steps, completed=done, loss="–", speed="–")
        # Of the whole run so far: that of one step jumps with the lengths of its rows.
        first: list[StepReport] = []

        def show(report: StepReport) -> None:
            first.append(report) if not first else None
            tokens = report.total_tokens - first[0].total_tokens + first[0].tokens
            seconds = report.seconds - first[0].seconds + first[0].step_seconds
            loss = next(iter(report.updates.values())).loss
            speed = f"{tokens / seconds:,.0f}" if seconds else "–"
            bar.update(task, completed=report.step, loss=f"{loss:.4f}", speed=speed)

        yield show
