"""AdamW with its first moment in four bits and its second factored, as Adafactor has it.

Half the state of `adamw_4bit`. The second moment of a matrix is the product of its rows' and
columns' means, so it can be far off where a matrix is not of rank one; the momentum that Adafactor
lacks is here.

Source: Li, Chen and Zhu 2023, arXiv:2309.01507 ("4-bit Factor").
"""

from collections.abc import Iterable

import torch
from pydantic import Field
from torch import nn

from yearling.core.config import Config
from yearling.training.compressed_adam import CompressedAdamW, compressed_state_bytes
from yearling.training.moments import BlockCodes, Factored, MomentStore, dynamic_exponent_map
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers

__all__ = ["Factor4BitConfig", "optimizer"]


class Factor4BitConfig(Config):
    """Options of AdamW with a four-bit first moment and a factored second."""

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


def _stores() -> tuple[MomentStore, MomentStore]:
    return BlockCodes(dynamic_exponent_map()), Factored()


def _build(groups: Iterable[ParameterGroup], config: Factor4BitConfig) -> torch.optim.Optimizer:
    first, second = _stores()
    return CompressedAdamW(
        groups,
        config.model_dump(include={"lr", "weight_decay", "beta1", "beta2", "epsilon"}),
        first=first,
        second=second,
        smallest_compressed=config.smallest_compressed,
    )


def _state_bytes(parameter: nn.Parameter, config: Factor4BitConfig) -> float:
    return compressed_state_bytes(parameter, *_stores(), config.smallest_compressed)


optimizer = optimizers.register(
    OptimizerKind(
        summary="AdamW with a four-bit first moment and a factored second: a fourteenth.",
        source="Li, Chen and Zhu 2023, arXiv:2309.01507",
        config=Factor4BitConfig,
        build=_build,
        uses_closure=False,
        state_bytes=_state_bytes,
    ),
    __name__,
)
