"""The caller's side of the process that renders chat templates: start, ask, stop, restart."""

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yearling.core.errors import RequestError, TemplateError
from yearling.models import template_worker
from yearling.models.template_worker import FRAME_LIMIT_BYTES

__all__ = ["TemplateProcess", "template_process"]

_DEADLINE_SECONDS = 10.0  # of the clock; the worker itself stops after 1 s of processor time


class TemplateProcess:
    """One rendering process, started on first use and again after a template broke it.

    Asking is safe from several threads: they take turns. A question takes about 0.2 ms.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._owner = 0

    def start(self) -> None:
        """Start the process if it is not there; it gets ready while the caller goes on."""
        with self._lock:
            self._connect()

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send one request, as `template_worker` defines it, and give the answer.

        Raises:
            TemplateError: the template fails, or takes too much time or memory.
            RequestError: the request itself is too large.
        """
        body = json.dumps(request).encode()
        if len(body) > FRAME_LIMIT_BYTES:
            raise RequestError(
                f"messages and tools take {len(body)} bytes as JSON; "
                f"at most {FRAME_LIMIT_BYTES} are rendered.",
                parameter="messages",
            )
        with self._lock:
            answer = self._exchange(body)
        if "error" in answer:
            raise TemplateError(f"the chat template fails: {answer['error']}.")
        return answer

    def stop(self) -> None:
        """End the process; the next request starts a new one."""
        with self._lock:
            self._discard()

    def _exchange(self, body: bytes) -> dict[str, Any]:
        channel = self._connect()
        deadline = time.monotonic() + _DEADLINE_SECONDS
        try:
            channel.settimeout(_DEADLINE_SECONDS)
            channel.sendall(len(body).to_bytes(4, "big") + body)
            length = int.from_bytes(_receive(channel, 4, deadline), "big")
            if length > FRAME_LIMIT_BYTES:
                raise EOFError
            answer: dict[str, Any] = json.loads(_receive(channel, length, deadline))
            if "is_spent" in answer:
                self._discard()
        except (OSError, EOFError, ValueError) as error:
            raise TemplateError(self._cause_of_death(error)) from error
        except BaseException:  # an interrupt between question and answer
            self._discard()
            raise
        return answer

    def _connect(self) -> socket.socket:
        process, channel = self._process, self._channel
        if process is not None and channel is not None and self._owner == os.getpid():
            if process.poll() is None:
                return channel
            self._discard()
        self._owner = os.getpid()  # after a fork, the parent's process is not ours to use
        worker = str(Path(template_worker.__file__))
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", worker, *filter(None, sys.path)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        self._channel = ours
        return ours

    def _cause_of_death(self, error: Exception) -> str:
        code = self._discard()
        if isinstance(error, TimeoutError):
            return f"the chat template takes more than {_DEADLINE_SECONDS:.0f} s."
        if code == -signal.SIGPROF:
            return "the chat template takes more than 1 s of processor time."
        return f"the chat template broke the process that renders it (exit status {code})."

    def _discard(self) -> int | None:
        process, channel, self._process, self._channel = self._process, self._channel, None, None
        if channel is not None:
            channel.close()
        if process is None or self._owner != os.getpid():
            return None
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _receive(channel: socket.socket, length: int, deadline: float) -> bytes:
    received = bytearray()
    while len(received) < length:
        channel.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = channel.recv(min(length - len(received), 1 << 20))
        if not chunk:
            raise EOFError
        received += chunk
    return bytes(received)


template_process = TemplateProcess()
atexit.register(template_process.stop)
