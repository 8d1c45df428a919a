"""The commands of an answering engine's process.

{"command": "load", "model": PATH, "options": {}}
-> {"load_seconds": 0.4, "description": "..."}
{"command": "answer", "prompts": [[1, 2]], "new_tokens": 8}
-> {"seconds": 1.2, "answers": [[3, 4, …]]}
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from benchmarks.serving.engines.runner import answer_commands

__all__ = ["AnsweringEngine", "serve"]


class AnsweringEngine(Protocol):
    """What an engine must offer to be compared with itself."""

    def load(self, model: Path, options: Mapping[str, int]) -> str:
        """Load the model and describe the configuration in one line."""
        ...

    def answer(self, prompts: Sequence[Sequence[int]], new_tokens: int) -> list[list[int]]:
        """Continue every prompt greedily by exactly `new_tokens` tokens, in the same way each time.

        Neither threads nor chance may decide which prompts share a batch.
        """
        ...


def serve(engine: AnsweringEngine) -> None:
    """Answer commands until stdin closes."""
    answer_commands(
        {
            "load": lambda command: _load(engine, Path(command["model"]), command["options"]),
            "answer": lambda command: _answer(engine, command["prompts"], command["new_tokens"]),
        }
    )


def _load(engine: AnsweringEngine, model: Path, options: Mapping[str, int]) -> dict[str, Any]:
    start = time.perf_counter()
    description = engine.load(model, options)
    return {"load_seconds": time.perf_counter() - start, "description": description}


def _answer(
    engine: AnsweringEngine, prompts: Sequence[Sequence[int]], new_tokens: int
) -> dict[str, Any]:
    start = time.perf_counter()
    answers = engine.answer(prompts, new_tokens)
    return {"seconds": time.perf_counter() - start, "answers": answers}
