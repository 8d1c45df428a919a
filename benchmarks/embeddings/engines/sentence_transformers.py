"""sentence-transformers' own `encode`, in fp32; it sorts by length and pads each batch itself."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import sentence_transformers
import torch
from numpy.typing import NDArray

from benchmarks.embeddings.engines.runner import serve

__all__ = ["SentenceTransformers"]

_THREADS = 2


class SentenceTransformers:
    """`SentenceTransformer(path).encode(texts, batch_size=…)`."""

    def load(self, model: Path) -> str:
        torch.set_num_threads(_THREADS)
        self._model = sentence_transformers.SentenceTransformer(str(model), device="cpu")
        return (
            f"sentence-transformers {sentence_transformers.__version__}, "
            f"torch {torch.__version__}, fp32, {_THREADS} threads"
        )

    def embed(self, texts: Sequence[str], batch_size: int) -> NDArray[np.float32]:
        vectors = self._model.encode(list(texts), batch_size=batch_size, show_progress_bar=False)
        return np.asarray(vectors, np.float32)


if __name__ == "__main__":
    serve(SentenceTransformers())
