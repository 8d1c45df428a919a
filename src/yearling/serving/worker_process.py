"""The child process of a loaded model: builds the engine, then steps it until told to stop.

    python -m yearling.serving.worker_process SOCKET_FD PARENT_PID

It never outlives its parent: the kernel kills it when the parent dies, and it leaves by itself
when the socket closes. An engine that breaks ends the process; the parent starts a new one.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from importlib import import_module

from yearling.core.log import set_up_logging
from yearling.serving.encoder_engine import EncoderEngine
from yearling.serving.engine import Engine
from yearling.serving.engine_loop import SteppedEngine, run_engine
from yearling.serving.messages import (
    Command,
    ErrorReport,
    FrameReader,
    Ready,
    Report,
    Start,
    StartFailed,
    decode_command,
    encode_frame,
)

__all__ = ["SocketChannel", "main"]

_log = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_RECEIVE_BYTES = 1 << 16


class SocketChannel:
    """Commands and reports as frames over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._frames = FrameReader()

    def receive(self, *, is_blocking: bool) -> Sequence[Command]:
        """Commands that have arrived, waiting for the first when blocking.

        Raises:
            EOFError: the parent is gone.
        """
        commands: list[Command] = []
        while (data := self._read(is_blocking=is_blocking and not commands)) is not None:
            commands.extend(map(decode_command, self._frames.feed(data)))
        return commands

    def send(self, report: Report) -> None:
        """Send a report; blocks while the parent's buffer is full.

        Raises:
            EOFError: the parent is gone.
        """
        try:
            self._connection.sendall(encode_frame(report))
        except OSError as error:
            raise EOFError from error

    def _read(self, *, is_blocking: bool) -> bytes | None:
        try:
            data = self._connection.recv(_RECEIVE_BYTES, 0 if is_blocking else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except OSError as error:
            raise EOFError from error
        if not data:
            raise EOFError
        return data


def main() -> int:
    """Run the worker; the exit code is 0 when it was told to stop or its parent went away."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    _live_no_longer_than(parent)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # stdout belongs to the parent's caller
    set_up_logging()
    with socket.socket(fileno=descriptor) as connection:
        try:
            return _serve(SocketChannel(connection))
        except EOFError:
            return 0


def _serve(channel: SocketChannel) -> int:
    start = channel.receive(is_blocking=True)[0]
    assert isinstance(start, Start), "the parent's first command"
    try:
        engine = _build(start)
    except Exception as error:
        _log.debug("the engine could not be built", exc_info=True)
        channel.send(StartFailed(ErrorReport.of(error)))
        return 1
    channel.send(Ready(engine.limits, engine.stats()))
    run_engine(engine, channel)
    return 0 if engine.error is None else 1


def _build(start: Start) -> SteppedEngine:
    module, _, function = start.entry.partition(":")
    engine = getattr(import_module(module), function)(**start.arguments)
    assert isinstance(engine, Engine | EncoderEngine), f"{start.entry} built {engine!r}"
    return engine


def _live_no_longer_than(parent: int) -> None:
    """Die with the parent, and leave it alone to decide what a terminal's signals mean."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


if __name__ == "__main__":
    sys.exit(main())
