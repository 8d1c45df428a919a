"""A training method as the registry holds it: what rows it reads and which objective it makes."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from yearling.core.config import Config
from yearling.core.registry import Registry
from yearling.data.encoded import EncodedRow
from yearling.data.examples import Example, ExampleKind
from yearling.data.render import Renderer
from yearling.data.rows import RowId
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.batch import PackedBatch
from yearling.training.objective import Objective

__all__ = ["Method", "Start", "methods"]

MethodConfig = TypeVar("MethodConfig", bound=Config)


@dataclass(frozen=True)
class Start:
    """What a method is given.

    Attributes:
        model: The model to train, with its adapter in place; what has `requires_grad` is trained.
        reference: Gives, as a context, the model as it was before training: the same module with
            its adapter off, or a frozen copy made on the first use.
        seed: Of everything random in the method.
    """

    model: TorchDecoder
    reference: Callable[[], AbstractContextManager[TorchDecoder]]
    seed: int


@dataclass(frozen=True)
class Method(Generic[MethodConfig]):
    """A way to train a language model on packed rows of text.

    Attributes:
        summary: One sentence.
        source: Paper, for `yearling` to print.
        config: Its options.
        kinds: Kinds of example it can learn from.
        encode: Makes an example into token ids. Several rows may come out of one (a long
            document), or none.
        objective: Makes the loss.
        switches_model: Whether the loss turns parts of the model on or off while it computes, so
            that no two micro-batches can be computed at a time.
    """

    summary: str
    source: str
    config: type[MethodConfig]
    kinds: Sequence[ExampleKind]
    encode: Callable[[RowId, Example, Renderer, MethodConfig], Sequence[EncodedRow]]
    objective: Callable[[MethodConfig, Start], Objective[PackedBatch]]
    switches_model: bool = False


methods: Registry[Method[Any]] = Registry("method", "yearling.training.methods", "yearling.methods")
