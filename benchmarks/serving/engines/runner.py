"""The loop inside an engine's process: one JSON command per line in, one answer per line out.

    {"command": "load", "model": PATH, "options": {}}
                                              -> {"load_seconds": 0.4, "description": "..."}
    {"command": "generate", "prompts": [[1, 2]], "new_tokens": 8, "is_streamed": false}
                                              -> {"seconds": ..., "new_tokens": 8, ...}

Standard library only. Whatever a library prints goes to stderr: stdout carries answers only.
"""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

__all__ = ["BenchedEngine", "Command", "answer_commands", "peak_rss_mb", "serve"]

Command = Callable[[dict[str, Any]], dict[str, Any]]
"""From a command's fields to its answer."""

_LOAD_PROMPT = (504, 253, 2365)


class BenchedEngine(Protocol):
    """What a peer must offer to be measured."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        """Load the model and describe the configuration in one line."""
        ...

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
        on_first_token: Callable[[], None] | None,
    ) -> int:
        """Continue every prompt greedily by exactly `new_tokens` tokens, all at once.

        Args:
            on_first_token: Called when a token of the only prompt reaches the caller.

        Returns:
            Tokens generated, summed over the prompts.
        """
        ...


def serve(engine: BenchedEngine) -> None:
    """Answer commands until stdin closes."""
    answer_commands(
        {
            "load": lambda command: _load(engine, Path(command["model"]), command["options"]),
            "generate": lambda command: _generate(engine, command),
        }
    )


def answer_commands(commands: Mapping[str, Command]) -> None:
    """Answer commands by their names until stdin closes, or the benchmark is killed."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: never outlive the benchmark
    answers = _own_stdout()
    for line in sys.stdin:
        answers.write(json.dumps(_answer(commands, json.loads(line))) + "\n")
        answers.flush()


def peak_rss_mb() -> float:
    """Give the highest resident memory of this process so far, in MB of 10^6 bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise OSError("/proc/self/status has no VmHWM line")


def _answer(commands: Mapping[str, Command], command: dict[str, Any]) -> dict[str, Any]:
    try:
        return commands[command["command"]](command)
    except Exception as error:  # the parent reports it with the engine's name
        return {"error": f"{type(error).__name__}: {error}"}


def _load(engine: BenchedEngine, model: Path, options: Mapping[str, int]) -> dict[str, Any]:
    start = time.perf_counter()
    description = engine.load(model, options)
    engine.generate([_LOAD_PROMPT], 1, None)
    return {"load_seconds": time.perf_counter() - start, "description": description}


def _generate(engine: BenchedEngine, command: dict[str, Any]) -> dict[str, Any]:
    first: list[float] = []

    def on_first_token() -> None:
        first.append(time.perf_counter() - start)

    callback = on_first_token if command["is_streamed"] else None
    start = time.perf_counter()
    new_tokens = engine.generate(command["prompts"], command["new_tokens"], callback)
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "first_token_seconds": first[0] if first else None,
        "new_tokens": new_tokens,
        "peak_rss_mb": peak_rss_mb(),
    }


def _own_stdout() -> Any:
    """Keep stdout for answers and point file descriptor 1, also C libraries', at stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return answers
