"""SAM: step by the gradient at the worst point nearby, which leads to flatter minima.

Every step computes two gradients: at the weights, to find the point, and at that point, to step
by. It generalises better where labels are noisy or data few, and costs twice the time; `wsam` is
the general form. Freeze the running statistics of batch norms in the second pass, if a model has
any: they would see weights that are not the model's.

Source: Foret, Kleiner, Mobahi and Neyshabur 2020, arXiv:2010.01412, algorithm 1.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers
from yearling.training.sharpness import (
    BaseConfig,
    adopt,
    base_state_bytes,
    build_base,
    gradient_at_worst,
    moving_parameters,
)

__all__ = ["Sam", "SamConfig", "optimizer"]


class SamConfig(BaseConfig):
    """Options of SAM: the base's, the radius, and how it is measured."""


class Sam(torch.optim.Optimizer):
    """Any base optimizer, fed the gradient at the worst point nearby."""

    def __init__(self, groups: Iterable[ParameterGroup], config: SamConfig) -> None:
        self._config = config
        self._base = build_base(groups, config)
        super().__init__(self._base.param_groups, self._base.defaults)
        adopt(self, self._base)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Climb, compute the gradient there, come back, and step by it.

        Args:
            closure: Clears the gradients and computes them again; not called where the
                gradient is zero, since there is nowhere to climb.
        Returns:
            What the closure returns.
        Raises:
            TrainingError: there is no closure.
        """
        parameters = moving_parameters(self.param_groups)
        loss = gradient_at_worst(parameters, self._config, closure)
        self._base.step()
        return loss


optimizer = optimizers.register(
    OptimizerKind(
        summary="Steps by the gradient at the worst point nearby; two gradients a step.",
        source="Foret et al. 2020, arXiv:2010.01412",
        config=SamConfig,
        build=Sam,
        uses_closure=True,
        state_bytes=base_state_bytes,
    ),
    __name__,
)
