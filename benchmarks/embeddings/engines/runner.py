"""The commands of an embedding engine's process.

    {"command": "load", "model": PATH, "options": {}}
                                       -> {"load_seconds": 0.4, "description": "..."}
    {"command": "embed", "texts": ["…"], "batch_size": 32}
                                       -> {"seconds": 1.2, "vectors": "base64 of float32"}

The clock runs from texts to vectors in memory; their way back to the parent is not timed.
"""

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.engines.runner import answer_commands

__all__ = ["EmbeddingEngine", "serve"]


class EmbeddingEngine(Protocol):
    """What a peer must offer to be measured."""

    def load(self, model: Path) -> str:
        """Load the model and describe the configuration in one line."""
        ...

    def embed(self, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
        """One vector per text, in order: (texts, numbers of a vector)."""
        ...


def serve(engine: EmbeddingEngine) -> None:
    """Answer commands until stdin closes."""
    answer_commands(
        {
            "load": lambda command: _load(engine, Path(command["model"])),
            "embed": lambda command: _embed(engine, command["texts"], command["batch_size"]),
        }
    )


def _load(engine: EmbeddingEngine, model: Path) -> dict[str, Any]:
    start = time.perf_counter()
    description = engine.load(model)
    engine.embed(["Hello."], 1)
    return {"load_seconds": time.perf_counter() - start, "description": description}


def _embed(engine: EmbeddingEngine, texts: Sequence[str], batch_size: int) -> dict[str, Any]:
    start = time.perf_counter()
    vectors = engine.embed(texts, batch_size)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "vectors": base64.b64encode(vectors.tobytes()).decode()}
