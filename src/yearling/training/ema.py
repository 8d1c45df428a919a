"""An averaged copy of the trained weights, which often validates better than the last ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["WeightAverage"]


class WeightAverage:
    """Exponential moving average of parameters.

    Early steps are forgotten faster, min(decay, (1 + n) / (10 + n)), so that the average is not
    the random start for long.

    Attributes:
        decay: Share that the average keeps of itself in each step.
        num_updates: Steps averaged so far.

    Source: Polyak and Juditsky 1992; the early decay is that of TensorFlow's
        ExponentialMovingAverage.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"decay={decay} of a weight average must lie between 0 and 1.")
        self.decay = decay
        self.num_updates = 0
        self._parameters = dict(parameters)
        self._averages = {name: p.detach().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are into the average."""
        count = self.num_updates
        decay = min(self.decay, (1 + count) / (10 + count))
        for name, parameter in self._parameters.items():
            self._averages[name].lerp_(parameter.detach(), 1 - decay)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the parameters have the averaged values inside the context."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def state_dict(self) -> dict[str, Any]:
        """Give the averages by name, and how many steps they hold."""
        return {"num_updates": self.num_updates, "averages": dict(self._averages)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take them back."""
        self.num_updates = state["num_updates"]
        for name, average in self._averages.items():
            average.copy_(state["averages"][name])

    @torch.no_grad()
    def _swap(self) -> None:
        for name, parameter in self._parameters.items():
            live: Tensor = parameter.detach().clone()
            parameter.copy_(self._averages[name])
            self._averages[name].copy_(live)
