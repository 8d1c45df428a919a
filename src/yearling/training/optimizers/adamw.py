"""AdamW: Adam with weight decay that does not pass through the moments.

The default for everything. The step is PyTorch's own: fused into one kernel per group where the
device has it, tensor lists otherwise. State: two moments in the weights' own type.

Source: Loshchilov and Hutter 2017, arXiv:1711.05101; Kingma and Ba 2014, arXiv:1412.6980.
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn

from yearling.core.config import Config
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers

__all__ = ["AdamWConfig", "optimizer"]

_FUSED_DEVICES = ("cpu", "cuda", "xpu", "mps")
_STEP_BYTES = 4


class AdamWConfig(Config):
    """Options of AdamW."""

    lr: float = Field(1e-3, ge=0, description="Learning rate: size of a step, about, per weight.")
    weight_decay: float = Field(
        0.0, ge=0, description="Share of each weight that a step takes away, times the lr."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Share of the first moment that stays.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Share of the second moment that stays.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")


def _build(groups: Iterable[ParameterGroup], config: AdamWConfig) -> torch.optim.Optimizer:
    groups = list(groups)
    return torch.optim.AdamW(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        fused=_can_fuse(groups),
    )


def _can_fuse(groups: Iterable[ParameterGroup]) -> bool:
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(
        parameter.device.type in _FUSED_DEVICES and parameter.is_floating_point()
        for parameter in parameters
    )


def _state_bytes(parameter: nn.Parameter, config: AdamWConfig) -> float:
    return 2 * parameter.numel() * parameter.element_size() + _STEP_BYTES


optimizer = optimizers.register(
    OptimizerKind(
        summary="Adam with decoupled weight decay, two moments per weight.",
        source="Loshchilov and Hutter 2017, arXiv:1711.05101",
        config=AdamWConfig,
        build=_build,
        uses_closure=False,
        state_bytes=_state_bytes,
    ),
    __name__,
)
