"""A loss whose minimum is known, and one step of training on it, for every optimizer's tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from yearling.training.optimizers import OptimizerKind

__all__ = ["closure_of", "distance", "make", "parameters", "train"]

SHAPES = ((96, 80), (5000,), (7,))
"""A matrix and a vector large enough to be compressed, and a vector that is not."""


def parameters(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES]


def targets() -> list[Tensor]:
    generator = torch.Generator().manual_seed(99)
    return [torch.randn(shape, generator=generator) for shape in SHAPES]


def make(kind: OptimizerKind[Any], weights: list[nn.Parameter], **options: Any) -> Any:
    return kind.build([{"params": weights}], kind.config(**options))


def distance(weights: list[nn.Parameter]) -> Tensor:
    """Half the squared distance to the targets, rows stretched differently."""
    losses = []
    for weight, target in zip(weights, targets(), strict=True):
        stretch = torch.linspace(0.5, 2.0, weight.shape[-1])
        losses.append((stretch * (weight.float() - target) ** 2).sum() / 2)
    return torch.stack(losses).sum()


def closure_of(weights: list[nn.Parameter], calls: list[float]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        for weight in weights:
            weight.grad = None
        loss = distance(weights)
        loss.backward()
        calls.append(loss.item())
        return loss

    return closure


def train(
    kind: OptimizerKind[Any], optimizer: torch.optim.Optimizer, weights: list[nn.Parameter], n: int
) -> list[float]:
    """Give the loss at each gradient that was computed."""
    calls: list[float] = []
    closure = closure_of(weights, calls)
    for _ in range(n):
        closure()
        if kind.uses_closure:
            optimizer.step(closure)
        else:
            optimizer.step()
    return calls
