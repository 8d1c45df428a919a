"""Number types of a training run: float32 throughout, or bfloat16 where it is safe.

Weights, gradients and optimizer states are float32 either way; with `bfloat16`, PyTorch's autocast
computes matrix products in it.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch

__all__ = ["Precision", "autocast", "choose_device", "deterministic"]

Precision = Literal["float32", "bfloat16"]


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Give the context in which losses are computed."""
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def choose_device(name: str) -> torch.device:
    """Give the device of a name; `auto` is a GPU where there is one, else the processor."""
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def deterministic(device: torch.device) -> Iterator[None]:
    """Compute the same bits every time, as far as PyTorch can on the device.

    On a GPU an operation without a deterministic form warns and runs; on a processor all that
    training uses have one.
    """
    was_on = torch.are_deterministic_algorithms_enabled()
    was_warning = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic  # its one attribute has no declared type
    was_filling = memory.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=device.type != "cpu")
    # Filling every new tensor with NaN would find reads of unset memory, at a cost in each step.
    memory.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was_on, warn_only=was_warning)
        memory.fill_uninitialized_memory = was_filling
