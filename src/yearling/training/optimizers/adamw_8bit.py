"""AdamW with both moments in eight bits, through bitsandbytes.

Blocks of 256 values share a scale, and codes follow a dynamic exponent map. A quarter of AdamW's
state; the safe step between `adamw` and `adamw_4bit`. Runs where bitsandbytes has the kernel: on
CUDA, and with version 0.50 on CPUs too.

Source: Dettmers, Lewis, Shleifer and Zettlemoyer 2021, arXiv:2110.02861.
"""

import math
from collections.abc import Iterable
from importlib import import_module

import torch
from pydantic import Field
from torch import nn

from yearling.core.config import Config
from yearling.core.errors import UnsupportedError
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers
from yearling.training.sharded import refuse_sharded

__all__ = ["AdamW8BitConfig", "optimizer"]

_BLOCK = 256


class AdamW8BitConfig(Config):
    """Options of AdamW in eight bits."""

    lr: float = Field(1e-3, ge=0, description="Learning rate: size of a step, about, per weight.")
    weight_decay: float = Field(
        0.0, ge=0, description="Share of each weight that a step takes away, times the lr."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Share of the first moment that stays.")
    beta2: float = Field(0.999, ge=0, lt=1, description="Share of the second moment that stays.")
    epsilon: float = Field(1e-8, gt=0, description="Added to the root of the second moment.")
    smallest_compressed: int = Field(
        4096, ge=1, description="Elements a tensor must have; smaller ones keep 32 bits."
    )


def _build(groups: Iterable[ParameterGroup], config: AdamW8BitConfig) -> torch.optim.Optimizer:
    groups = list(groups)
    parameters = [parameter for group in groups for parameter in group["params"]]
    refuse_sharded(parameters)
    for device in sorted({str(parameter.device) for parameter in parameters}):
        _try_one_step(device)
    return _make(groups, config)


def _make(groups: Iterable[ParameterGroup], config: AdamW8BitConfig) -> torch.optim.Optimizer:
    kind = import_module("bitsandbytes").optim.AdamW8bit
    made: torch.optim.Optimizer = kind(
        groups,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.epsilon,
        weight_decay=config.weight_decay,
        min_8bit_size=config.smallest_compressed,
    )
    return made


def _try_one_step(device: str) -> None:
    """Step a block of zeros, since no call says which devices have the kernel.

    Raises:
        UnsupportedError: it does not work.
    """
    probe = nn.Parameter(torch.zeros(_BLOCK, device=device))
    probe.grad = torch.zeros_like(probe)
    try:
        _make([{"params": [probe]}], AdamW8BitConfig(smallest_compressed=1)).step()
    except ImportError as error:
        raise UnsupportedError(
            f"optimizer 'adamw_8bit' needs bitsandbytes, which does not import: {error}. "
            "Install yearling[train], or take 'adamw_4bit', which needs nothing."
        ) from error
    except (AttributeError, NotImplementedError, RuntimeError, ValueError) as error:
        raise UnsupportedError(
            f"optimizer 'adamw_8bit': this bitsandbytes cannot step on device {device!r}: "
            f"{error}. Take 'adamw_4bit', which runs on every device, or 'adamw'."
        ) from error


def _state_bytes(parameter: nn.Parameter, config: AdamW8BitConfig) -> float:
    size = parameter.numel()
    if size < config.smallest_compressed:
        return 2 * 4 * size
    return 2 * (size + 4 * math.ceil(size / _BLOCK))


optimizer = optimizers.register(
    OptimizerKind(
        summary="AdamW with eight-bit moments, by bitsandbytes: a quarter of the state.",
        source="Dettmers et al. 2021, arXiv:2110.02861",
        config=AdamW8BitConfig,
        build=_build,
        uses_closure=False,
        state_bytes=_state_bytes,
    ),
    __name__,
)
