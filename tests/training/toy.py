"""Toys for the loop: a regression whose every step can be worked out, and a source of numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from yearling.training.loop import Optimization
from yearling.training.objective import Loss, Objective, Update
from yearling.training.schedules import ScheduleConfig


@dataclass(frozen=True, eq=False)
class Points:
    """A micro-batch of a regression: inputs (N, 2), wanted values (N,)."""

    inputs: Tensor
    wanted: Tensor
    names: Sequence[str] = ()


@dataclass
class PointSource:
    """Steps of random points; each step has the same points, however they are split."""

    split: Sequence[int] = (4,)
    num_steps: int | None = None
    done: int = 0
    change: Callable[[int, Points], Points] = field(default=lambda step, batch: batch)

    def next_step(self) -> list[Points]:
        if self.num_steps is not None and self.done >= self.num_steps:
            return []
        generator = torch.Generator().manual_seed(self.done)
        inputs = torch.randn(sum(self.split), 2, generator=generator)
        wanted = inputs @ torch.tensor([1.0, -2.0])
        self.done += 1
        parts, start = [], 0
        for size in self.split:
            rows = slice(start, start + size)
            names = [f"points:{self.done}.{n}" for n in range(start, start + size)]
            parts.append(self.change(self.done, Points(inputs[rows], wanted[rows], names)))
            start += size
        return parts

    def row_names(self, batch: Any) -> Sequence[str]:
        return list(batch.names)

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.done = state["done"]


def regression(*, dropout: float = 0.0) -> Objective[Points]:
    """A linear model, and the sum of squared errors over points."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(2, 8), nn.Dropout(dropout), nn.Linear(8, 1))

    def loss(batch: Points) -> Loss:
        errors = model(batch.inputs).squeeze(-1) - batch.wanted
        return Loss(errors.square().sum(), {"error": float(errors.detach().abs().sum())})

    parameters = dict(model.named_parameters())
    update = Update("loss", parameters, loss, lambda batch: float(len(batch.wanted)))
    return Objective({"model": model}, [update])


def sgd(lr: float = 0.05, schedule: ScheduleConfig | None = None) -> Optimization:
    return Optimization(
        lambda update: torch.optim.SGD(update.parameters.values(), lr=lr, momentum=0.9),
        schedule=schedule or ScheduleConfig(name="constant", warmup=0),
    )


def weights(objective: Objective[Any]) -> dict[str, Tensor]:
    """A copy of all values."""
    return {
        f"{name}.{key}": value.detach().clone()
        for name, module in objective.modules.items()
        for key, value in module.state_dict().items()
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether values are equal to the bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
