"""Adafactor: the second moment of a matrix kept as one number per row and one per column.

State is almost nothing, so it is the choice when a full fine-tune barely fits. There is no first
moment; steps are scaled by the size of the weights themselves and capped. The implementation is
PyTorch's, which ships and is tested with the tensors it works on, and takes its rate from the
schedule as every other optimizer does; transformers' own has a second schedule inside.

Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithms 4 and 5.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn

from yearling.core.config import Config
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers

__all__ = ["AdafactorConfig", "optimizer"]

_STEP_BYTES = 4


class AdafactorConfig(Config):
    """Options of Adafactor."""

    lr: float = Field(
        1e-2, ge=0, description="Largest step, relative to the root mean square of the weights."
    )
    weight_decay: float = Field(
        0.0, ge=0, description="Share of each weight that a step takes away, times the lr."
    )
    decay_exponent: float = Field(
        -0.8, le=0, description="Step t keeps 1 - t^exponent of the second moment."
    )
    smallest_scale: float = Field(
        1e-3, ge=0, description="Weights whose root mean square is smaller move as if it were this."
    )
    clip: float = Field(
        1.0, ge=1, description="Largest root mean square of an update, before the rate."
    )


def _build(groups: Iterable[ParameterGroup], config: AdafactorConfig) -> torch.optim.Optimizer:
    return torch.optim.Adafactor(
        list(groups),
        lr=config.lr,
        beta2_decay=config.decay_exponent,
        eps=(None, config.smallest_scale),
        d=config.clip,
        weight_decay=config.weight_decay,
    )


def _state_bytes(parameter: nn.Parameter, config: AdafactorConfig) -> float:
    if parameter.dim() < 2:
        return parameter.numel() * parameter.element_size() + _STEP_BYTES
    rows = parameter.numel() // parameter.shape[-1]
    columns = parameter.numel() // parameter.shape[-2]
    return (rows + columns) * parameter.element_size() + _STEP_BYTES


optimizer = optimizers.register(
    OptimizerKind(
        summary="Second moment by row and column, no first moment: almost no state.",
        source="Shazeer and Stern 2018, arXiv:1804.04235",
        config=AdafactorConfig,
        build=_build,
        uses_closure=False,
        state_bytes=_state_bytes,
    ),
    __name__,
)
