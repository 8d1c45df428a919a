"""Showing that something takes a while; on stderr, and only where somebody looks."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["download_bar", "notice_when_slow"]

_PATIENCE_SECONDS = 1.0


@contextmanager
def download_bar(name: str) -> Iterator[Callable[[int, int], None]]:
    """Give a function to be told bytes present and bytes in all; it draws a bar on a terminal."""
    if not sys.stderr.isatty():
        yield _one_line(name)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(f"pulling {name}", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


def _one_line(name: str) -> Callable[[int, int], None]:
    """Where there is no terminal, one line says that a download began."""
    has_spoken = False

    def report(done: int, total: int) -> None:
        nonlocal has_spoken
        if not has_spoken:
            print(f"pulling {name}: {total / 1e6:.0f} MB", file=sys.stderr, flush=True)
            has_spoken = True

    return report


@contextmanager
def notice_when_slow(message: str) -> Iterator[None]:
    """Say what the user waits for when it takes more than a second."""
    timer = threading.Timer(_PATIENCE_SECONDS, print, (message,), {"file": sys.stderr})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
