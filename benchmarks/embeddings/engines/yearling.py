"""Yearling through its public Python API, with default flags; it packs its own batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.embeddings.engines.runner import serve
from yearling import LLM, __version__

__all__ = ["Yearling"]


class Yearling:
    """`LLM(path).embed(texts)` and nothing else."""

    def load(self, model: Path) -> str:
        self._llm = LLM(model)
        return f"yearling {__version__}, {model.name}, default flags"

    def embed(self, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
        return self._llm.embed(texts)


if __name__ == "__main__":
    serve(Yearling())
