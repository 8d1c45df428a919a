"""WSAM: the loss plus its sharpness as a penalty whose weight can be chosen.

The loss is L(w) + α · (max L(w + e) - L(w)) with α = γ / (1 - γ): γ = 0 is the base optimizer
alone, 1/2 is SAM, and more asks for flatter minima than SAM does; 0.8 to 0.95 is usual. Decoupled,
which is the default, the base sees the plain gradient alone and the penalty moves the weights
beside it, as weight decay does in AdamW. Costs two gradients a step. Freeze the running
statistics of batch norms in the second pass, if a model has any.

Source: Yue, Jiang, Ye, Gao, Liu and Zhang 2023, arXiv:2305.15817.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers
from yearling.training.sharpness import (
    BaseConfig,
    adopt,
    base_state_bytes,
    build_base,
    gradient_at_worst,
    gradients,
    moving_parameters,
)

__all__ = ["Wsam", "WsamConfig", "optimizer", "penalty_weight"]


class WsamConfig(BaseConfig):
    """Options of WSAM."""

    gamma: float = Field(
        0.9, ge=0, lt=1, description="How much flatness counts: 0 not at all, 0.5 as in SAM."
    )
    is_decoupled: bool = Field(
        True, description="Move by the penalty beside the base's step, not through its moments."
    )


def penalty_weight(gamma: float) -> float:
    """Give the weight of the sharpness in the loss.

    >>> penalty_weight(0.0), penalty_weight(0.5), round(penalty_weight(0.9), 6)
    (0.0, 1.0, 9.0)
    """
    return gamma / (1 - gamma)


class Wsam(torch.optim.Optimizer):
    """Any base optimizer, with sharpness as a penalty."""

    def __init__(self, groups: Iterable[ParameterGroup], config: WsamConfig) -> None:
        self._config = config
        self._base = build_base(groups, config)
        super().__init__(self._base.param_groups, self._base.defaults)
        adopt(self, self._base)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Compute the gradient at the worst point nearby too, and step by both.

        Args:
            closure: Clears the gradients and computes them again; not called with gamma = 0, nor
                where the gradient is zero, since there is nowhere to climb.
        Returns:
            What the closure returns.
        Raises:
            TrainingError: there is no closure.
        """
        weight = penalty_weight(self._config.gamma)
        if not weight:
            self._base.step()
            return None
        parameters = moving_parameters(self.param_groups)
        plain = gradients(parameters)
        loss = gradient_at_worst(parameters, self._config, closure)
        # Gradient of max L(w + e) - L(w), the point e being held fixed.
        sharpness = [g - p for g, p in zip(gradients(parameters), plain, strict=True)]
        kept = 0.0 if self._config.is_decoupled else weight
        for parameter, gradient, rise in zip(parameters, plain, sharpness, strict=True):
            parameter.grad = gradient.add(rise, alpha=kept)
        self._base.step()
        if self._config.is_decoupled:
            self._descend(sharpness, weight)
        return loss

    def _descend(self, sharpness: list[Tensor], weight: float) -> None:
        """Move by the penalty alone, at each group's own rate."""
        left = iter(sharpness)
        for group in self.param_groups:
            for parameter in moving_parameters([group]):
                parameter.add_(next(left), alpha=-float(group["lr"]) * weight)


optimizer = optimizers.register(
    OptimizerKind(
        summary="The loss plus its sharpness, weighted; two gradients a step.",
        source="Yue et al. 2023, arXiv:2305.15817",
        config=WsamConfig,
        build=Wsam,
        uses_closure=True,
        state_bytes=base_state_bytes,
    ),
    __name__,
)
