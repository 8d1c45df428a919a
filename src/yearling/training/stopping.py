"""Stopping a run from outside: it ends its step, saves, and says how to go on."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["stop_on_signals"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Give a function that says which signal has asked the run to stop; None for none.

    A second Ctrl-C interrupts at once. Outside the main thread signals are left as they are.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    received: list[signal.Signals] = []

    def take(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(signal.Signals(number))

    before = {number: signal.signal(number, take) for number in _SIGNALS}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
