"""The parent's end of one engine's process."""

import json
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.serving.workload import Phase, Timing
from yearling.core.errors import YearlingError

__all__ = ["BenchmarkError", "EngineCommand", "EngineProcess"]

_ROOT = Path(__file__).resolve().parents[2]
_ANSWER_SECONDS = 900.0


class BenchmarkError(YearlingError):
    """A measurement that cannot be made, with the reason and the remedy."""


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start an engine and what to load.

    Attributes:
        name: Its column in the table.
        python: Interpreter of the environment it is installed in.
        module: The module that serves it, for example `benchmarks.serving.engines.llama_cpp`.
        model: The file or folder it loads.
        options: Handed to its `load`, when it can be configured.
        metrics: What this form of the engine is measured on; None is everything.
    """

    name: str
    python: Path
    module: str
    model: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    metrics: frozenset[str] | None = None

    def gives(self, metric: str) -> bool:
        """Whether this form is measured on a metric."""
        return self.metrics is None or metric in self.metrics


class EngineProcess:
    """A running engine, loaded and idle until asked.

    Raises:
        BenchmarkError: the process ends, reports an error or stays silent too long.
    """

    def __init__(self, command: EngineCommand, answer_seconds: float = _ANSWER_SECONDS) -> None:
        self.name = command.name
        self.gives = command.gives
        self._answer_seconds = answer_seconds
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed by close)
        self._process = subprocess.Popen(
            [command.python, "-m", command.module],
            cwd=_ROOT,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONFAULTHANDLER": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        try:
            answer = self.ask(
                {
                    "command": "load",
                    "model": str(command.model),
                    "options": dict(command.options),
                }
            )
        except BaseException:
            self.close()
            raise
        self.load_seconds = float(answer["load_seconds"])
        self.description = str(answer["description"])

    @property
    def pid(self) -> int:
        """The operating system's number of the process."""
        return self._process.pid

    def run(self, phase: Phase) -> Timing:
        """Run a phase: its untimed earlier prompt, then the timed call."""
        if phase.earlier:
            self._generate([phase.earlier], 1, is_streamed=False)
        return self._generate(phase.prompts, phase.new_tokens, is_streamed=phase.is_streamed)

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises:
            BenchmarkError: the process ends, reports an error or stays silent too long.
        """
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        was_silent = threading.Event()
        watchdog = threading.Timer(self._answer_seconds, self._end_silence, (was_silent,))
        watchdog.start()
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watchdog.cancel()
        if not line:
            cause = (
                f"was silent for {self._answer_seconds:.0f} s" if was_silent.is_set() else "ended"
            )
            raise BenchmarkError(f"{self.name} {cause} at {command['command']} {self._obituary()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name} failed at {command['command']}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _generate(
        self, prompts: Sequence[Sequence[int]], new_tokens: int, *, is_streamed: bool
    ) -> Timing:
        answer = self.ask(
            {
                "command": "generate",
                "prompts": [list(prompt) for prompt in prompts],
                "new_tokens": new_tokens,
                "is_streamed": is_streamed,
            }
        )
        return Timing(
            seconds=answer["seconds"],
            new_tokens=answer["new_tokens"],
            peak_rss_mb=answer["peak_rss_mb"],
            first_token_seconds=answer["first_token_seconds"],
        )

    def _end_silence(self, was_silent: threading.Event) -> None:
        was_silent.set()
        self._process.kill()

    def _obituary(self) -> str:
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._errors.seek(0)
        last_words = self._errors.read().decode(errors="replace").strip().splitlines()[-20:]
        return f"(exit code {code}). Its last words:\n  " + "\n  ".join(last_words)
