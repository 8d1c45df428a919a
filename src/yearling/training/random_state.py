"""The random numbers of a run: one seed for Python, NumPy and PyTorch, saved and put back."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

__all__ = ["load_random_state", "random_state", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators, those of all GPUs included.

    >>> seed_everything(3); first = torch.rand(2)
    >>> seed_everything(3); bool((torch.rand(2) == first).all())
    True
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # the global one, which libraries draw from
    torch.manual_seed(seed)


def random_state() -> dict[str, Any]:
    """Give the state of every generator, as tensors, numbers and strings."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": torch.from_numpy(np.asarray(keys, np.int64).copy()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if torch.cuda.is_available() else [],
    }


def load_random_state(state: Mapping[str, Any]) -> None:
    """Put the state of every generator back."""
    python, numbers = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    keys = numbers["keys"].numpy().astype(np.uint32)
    shape = (numbers["name"], keys, numbers["position"], numbers["has_gauss"], numbers["cached"])
    np.random.set_state(shape)
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
