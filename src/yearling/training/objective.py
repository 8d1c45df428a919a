"""What a training method gives the loop, and what the loop promises in return.

The loop owns accumulation, precision, distribution, clipping, checkpoints, exact resume and
metrics. A method owns its models, their losses, and what happens between optimizer steps. All of
it is one `Objective`: a few values and functions, so that a method is written without knowing the
loop. `docs/training.md` shows DPO, PPO, consistency distillation, a two-optimizer model and WSAM
against it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from jaxtyping import Float
from torch import Tensor, nn

__all__ = ["BatchSource", "Loss", "Objective", "Stateful", "Update", "one_round"]

Batch = TypeVar("Batch")
SourceBatch = TypeVar("SourceBatch", covariant=True)


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one micro-batch.

    Attributes:
        total: Sum over the micro-batch's units, with a gradient. The loop divides by the weight
            of all micro-batches and ranks of the step, so that how rows are split over them
            changes nothing.
        metrics: Sums over the same units, to be shown as means: `accuracy`, `margin`.
    """

    total: Float[Tensor, ""]
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Update(Generic[Batch]):
    """One optimizer's share of a step.

    Attributes:
        name: Heads its metrics: `loss`, or `discriminator`.
        parameters: What the optimizer changes, by name; read once, when the loop starts.
        loss: Computes one micro-batch.
        weight: Units of a micro-batch, known before it is computed: labelled tokens, or pairs.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    loss: Callable[[Batch], Loss]
    weight: Callable[[Batch], float]


class Stateful(Protocol):
    """Something beside modules and optimizers that a resumed run must find again."""

    def state_dict(self) -> dict[str, Any]:
        """Give what must be saved: tensors, numbers, strings, and lists and dicts of them."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take it back."""
        ...


def one_round(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    """Use the micro-batches of a step once, as they are."""
    yield batches


def _nothing(step: int) -> None:
    return


@dataclass(frozen=True)
class Objective(Generic[Batch]):
    """A method, ready to train.

    Attributes:
        modules: Everything with parameters or buffers, by name: the loop moves, saves and restores
            them. What is trained, what is frozen, an EMA target, a value head.
        updates: Optimizer steps of each round, in order; GANs and VQ models have two.
        rounds: Makes a step's micro-batches into one or more rounds, each of which ends in
            optimizer steps. PPO samples answers here and yields its epochs; most yield once.
        after_step: Called with the step's number when all its rounds are done: moves EMA targets,
            adapts coefficients.
        state: What else a resumed run must find again, by name.
        saved: Modules that the finished run writes out, by name; empty for all.
    """

    modules: Mapping[str, nn.Module]
    updates: Sequence[Update[Batch]]
    rounds: Callable[[Sequence[Batch]], Iterable[Sequence[Batch]]] = one_round
    after_step: Callable[[int], None] = _nothing
    state: Mapping[str, Stateful] = field(default_factory=dict)
    saved: Sequence[str] = ()


class BatchSource(Stateful, Protocol[SourceBatch]):
    """Endless or finite steps of micro-batches, whose place in the data can be saved.

    The same seed and state give the same micro-batches, whatever came before.
    """

    def next_step(self) -> Sequence[SourceBatch]:
        """Give the micro-batches of the next optimizer step; empty at the end of the data."""
        ...

    def row_names(self, batch: Any) -> Sequence[str]:
        """Name the rows of a micro-batch, for messages: `train.jsonl:17`."""
        ...
