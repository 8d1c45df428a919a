"""Optimizers: one file each; the file's stem is the word in YAML.

Every optimizer is a `torch.optim.Optimizer`. One that asks for a second gradient (SAM, WSAM) gets
a closure in `step`, which computes the gradient of the whole step again, over all micro-batches
and with the same random numbers, at the weights as they are then; the others get none.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import nn

from yearling.core.config import Config
from yearling.core.registry import Registry

__all__ = ["OptimizerKind", "ParameterGroup", "optimizers"]

OptimizerConfig = TypeVar("OptimizerConfig", bound=Config)

ParameterGroup = dict[str, Any]
"""As torch takes it: `params`, and options that differ from the configuration's."""


@dataclass(frozen=True)
class OptimizerKind(Generic[OptimizerConfig]):
    """An optimizer as the registry holds it.

    Attributes:
        summary: One sentence.
        source: Paper.
        config: Its options; each has `lr`, `weight_decay`.
        build: Makes it over parameter groups.
        uses_closure: Whether `step` computes a second gradient.
        state_bytes: Bytes of state for a parameter of a shape, for `yearling plan`.
    """

    summary: str
    source: str
    config: type[OptimizerConfig]
    build: Callable[[Iterable[ParameterGroup], OptimizerConfig], torch.optim.Optimizer]
    uses_closure: bool
    state_bytes: Callable[[nn.Parameter, OptimizerConfig], float]


optimizers: Registry[OptimizerKind[Any]] = Registry(
    "optimizer", "yearling.training.optimizers", "yearling.optimizers"
)
