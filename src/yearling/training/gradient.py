"""One optimizer's part of a step: the gradient over all micro-batches, checked, then applied.

Legend: micro-batches of all ranks together make one gradient, that of the mean over their units.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import torch
from torch import Tensor

from yearling.training.objective import Loss, Update
from yearling.training.precision import Precision, autocast
from yearling.training.random_state import load_random_state, random_state
from yearling.training.ranks import Ranks
from yearling.training.sharded import whole

__all__ = ["Gradient", "NotFinite", "UpdateRunner", "gradient_norm"]

Batch = TypeVar("Batch")


class NotFinite(Exception):  # noqa: N818 - becomes a NonFiniteError once step and rows are known
    """A loss or the gradient is not a finite number; the weights have not been touched.

    Attributes:
        gradient: What was computed.
        culprits: Numbers of this rank's micro-batches whose loss is at fault; empty when every
            loss is finite and the gradient is not, or when another rank has them.
    """

    def __init__(self, gradient: "Gradient", culprits: Sequence[int]) -> None:
        super().__init__()
        self.gradient = gradient
        self.culprits = tuple(culprits)


@dataclass(frozen=True, slots=True)
class Gradient:
    """What is known of a gradient that lies in the parameters.

    Attributes:
        loss: Mean over units of all ranks.
        norm: Euclidean length, before clipping.
        weight: Units of all ranks.
        metrics: Means over the same units.
        losses: Mean loss of each micro-batch of this rank.
    """

    loss: float
    norm: float
    weight: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    losses: Sequence[float] = ()


@dataclass(frozen=True, slots=True)
class UpdateRunner(Generic[Batch]):
    """Brings one optimizer of an objective forward.

    Attributes:
        update: What it changes, and by which loss.
        optimizer: Over the update's parameters.
        uses_closure: Whether its `step` asks for a second gradient.
        ranks: Processes that share the step.
        precision: In which losses are computed.
        clip: Longest gradient; longer ones are shortened to it. None leaves them.
        device: Of the modules.
    """

    update: Update[Batch]
    optimizer: torch.optim.Optimizer
    uses_closure: bool
    ranks: Ranks
    precision: Precision
    clip: float | None
    device: torch.device

    def run(self, batches: Sequence[Batch]) -> Gradient:
        """Compute the gradient and take one optimizer step.

        Raises:
            NotFinite: the weights are as they were.
        """
        if not self.uses_closure:
            gradient = self._gradient(batches)
            self.optimizer.step()
        else:
            gradient = self._run_with_closure(batches)
        self.optimizer.zero_grad(set_to_none=True)
        return gradient

    def set_rate(self, factor: float) -> float:
        """Multiply the learning rates, and give the first group's."""
        for group in self.optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
        return float(self.optimizer.param_groups[0]["lr"])

    def _run_with_closure(self, batches: Sequence[Batch]) -> Gradient:
        before = random_state()
        gradient = self._gradient(batches)
        after = random_state()

        def closure() -> float:
            load_random_state(before)
            return self._gradient(batches).loss

        self.optimizer.step(closure)
        load_random_state(after)
        return gradient

    def _gradient(self, batches: Sequence[Batch]) -> Gradient:
        """Put the gradient of the mean loss into the parameters, clipped and known to be finite."""
        own = [float(self.update.weight(batch)) for batch in batches]
        (weight,) = self.ranks.total([sum(own)])
        if weight <= 0:
            raise ValueError(f"{self.update.name}: no micro-batch of the step has a unit to learn.")
        for parameter in self.update.parameters.values():
            parameter.grad = None
        computed = self._backward(batches, weight)
        norm = gradient_norm([p.grad for p in self.update.parameters.values()])
        gradient, culprits = self._summarise(computed, own, weight, norm)
        (num_bad,) = self.ranks.total([len(culprits) + (not math.isfinite(norm))])
        if num_bad:
            self.optimizer.zero_grad(set_to_none=True)
            raise NotFinite(gradient, culprits)
        if self.clip is not None and norm > self.clip:
            torch.nn.utils.clip_grads_with_norm_(
                self.update.parameters.values(), self.clip, torch.tensor(norm)
            )
        return gradient

    def _backward(self, batches: Sequence[Batch], weight: float) -> list[Loss]:
        compute = self.ranks.loss_of(self.update)
        losses = []
        for number, batch in enumerate(batches, start=1):
            with self.ranks.exchanging(is_last=number == len(batches)):
                with autocast(self.precision, self.device):
                    loss = compute(batch)
                (loss.total * (self.ranks.gradient_factor / weight)).backward()  # type: ignore[no-untyped-call]
            losses.append(Loss(loss.total.detach(), loss.metrics))
        return losses

    def _summarise(
        self, computed: Sequence[Loss], own: Sequence[float], weight: float, norm: float
    ) -> tuple[Gradient, list[int]]:
        totals = torch.stack([loss.total.float() for loss in computed]).tolist()
        names = sorted({name for loss in computed for name in loss.metrics})
        sums = [sum(loss.metrics.get(name, 0.0) for loss in computed) for name in names]
        total, *sums = self.ranks.total([sum(totals), *sums])
        means = {name: value / weight for name, value in zip(names, sums, strict=True)}
        losses = [value / (units or 1.0) for value, units in zip(totals, own, strict=True)]
        culprits = [number for number, value in enumerate(totals) if not math.isfinite(value)]
        return Gradient(total / weight, norm, weight, means, losses), culprits


def gradient_norm(gradients: Sequence[Tensor | None]) -> float:
    """Give the Euclidean length of all gradients together; 0 when there are none."""
    present = [gradient for gradient in gradients if gradient is not None]
    if not present:
        return 0.0
    return float(whole(torch.nn.utils.get_total_norm(present)))
