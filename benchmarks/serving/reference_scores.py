"""How transformers in fp32 reads a text: the oracle of `yearling bench correctness`.

A program of its own, since a minimal install of Yearling has no torch: it runs in the peers'
environment where ours lacks a part. Token ids come as JSON on stdin; NumPy arrays go to a file.

    python -m benchmarks.serving.reference_scores MODEL.gguf SCORES.npz < tokens.json
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["reference_scores"]

_ROOT = Path(__file__).resolve().parents[2]
_NEEDED = ("torch", "transformers", "gguf")


def reference_scores(
    path: Path, tokens: Sequence[int]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Score a text over the weights of a GGUF file, de-quantised by transformers itself.

    Returns:
        Log-probabilities in nats of every token but the first [T - 1], and the tokens that the
        model would have chosen in their places [T - 1].

    Raises:
        BenchmarkError: no environment has transformers, or it fails.
    """
    from benchmarks.peers import peer_python
    from benchmarks.serving.engine_process import BenchmarkError

    has_all = all(find_spec(name) is not None for name in _NEEDED)
    python = Path(sys.executable) if has_all else peer_python()
    with tempfile.TemporaryDirectory(prefix="yearling-correctness-") as folder:
        scores = Path(folder) / "scores.npz"
        ran = subprocess.run(
            [python, "-m", "benchmarks.serving.reference_scores", path.resolve(), scores],
            cwd=_ROOT,
            input=json.dumps(list(tokens)),
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode != 0:
            raise BenchmarkError(f"transformers cannot score {path}:\n{ran.stderr[-2000:]}")
        with np.load(scores) as arrays:
            return arrays["logprobs"], arrays["greedy"]


def _score(path: Path, tokens: list[int]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    model.train(False)
    with torch.inference_mode():
        logits = model(torch.tensor([tokens])).logits[0, :-1]
        following = torch.tensor(tokens[1:])
        logprobs = torch.cat(  # a few rows at a time: a large vocabulary in float64 is gigabytes
            [
                torch.log_softmax(rows.double(), dim=-1).gather(1, targets[:, None])[:, 0]
                for rows, targets in zip(logits.split(64), following.split(64), strict=True)
            ]
        )
        return logprobs.numpy(), logits.argmax(dim=-1).numpy()


if __name__ == "__main__":
    of_each, chosen = _score(Path(sys.argv[1]), json.load(sys.stdin))
    np.savez(sys.argv[2], logprobs=of_each, greedy=chosen)
