"""AdamW with both moments in four bits: a seventh of AdamW's state, at its accuracy.

Against eight bits: blocks are smaller, the second moment is scaled by row and column at once so
that one outlier spoils little, and its map has no zero. Take it when the state is what does not
fit; `factor_4bit` needs half of it.

Source: Li, Chen and Zhu 2023, arXiv:2309.01507.
"""

from collections.abc import Iterable
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from yearling.core.config import Config
from yearling.training.compressed_adam import CompressedAdamW, compressed_state_bytes
from yearling.training.moments import (
    BlockCodes,
    MomentStore,
    RankOneCodes,
    dynamic_exponent_map,
    linear_map,
)
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers

__all__ = ["AdamW4BitConfig", "optimizer"]


class AdamW4BitConfig(Config):
    """Options of AdamW in four bits."""

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
    second_scale: Literal["rank_one", "block"] = Field(
        "rank_one", description="Scale of a second moment: by row and column, or by blocks of 128."
    )
    second_map: Literal["linear_without_zero", "linear_with_zero"] = Field(
        "linear_without_zero",
        description="Map of a second moment; the one with zero is there to show what it spoils.",
    )


def _stores(config: AdamW4BitConfig) -> tuple[MomentStore, MomentStore]:
    values = linear_map(has_zero=config.second_map == "linear_with_zero")
    second = RankOneCodes(values) if config.second_scale == "rank_one" else BlockCodes(values)
    return BlockCodes(dynamic_exponent_map()), second


def _build(groups: Iterable[ParameterGroup], config: AdamW4BitConfig) -> torch.optim.Optimizer:
    first, second = _stores(config)
    return CompressedAdamW(
        groups,
        config.model_dump(include={"lr", "weight_decay", "beta1", "beta2", "epsilon"}),
        first=first,
        second=second,
        smallest_compressed=config.smallest_compressed,
    )


def _state_bytes(parameter: nn.Parameter, config: AdamW4BitConfig) -> float:
    return compressed_state_bytes(parameter, *_stores(config), config.smallest_compressed)


optimizer = optimizers.register(
    OptimizerKind(
        summary="AdamW with four-bit moments: a seventh of the state.",
        source="Li, Chen and Zhu 2023, arXiv:2309.01507",
        config=AdamW4BitConfig,
        build=_build,
        uses_closure=False,
        state_bytes=_state_bytes,
    ),
    __name__,
)
