"""The interpreters under comparison, by name."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint import Checkpoint
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.families import Family
from yearling.models.spec import ModelSpec
from yearling.models.weights import Weight
from yearling.serving.executor import Executor

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["EXECUTORS", "TinyExecutor", "WithSpec"]


class TinyExecutor(Executor, Protocol):
    """An executor that also gives the logits of a sequence alone."""

    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> NDArray[np.float32]:
        """Logits (T, V)."""
        ...


class WithSpec:
    """A checkpoint whose spec has been changed: its weights, in another network."""

    def __init__(self, checkpoint: Checkpoint, spec: ModelSpec, context: int) -> None:
        self.path: Path = checkpoint.path
        self.family: Family = checkpoint.family
        self.eos_token_ids: tuple[int, ...] = checkpoint.eos_token_ids
        self.spec = replace(spec, context=max(spec.context, context))
        self._checkpoint = checkpoint

    def weight(self, weight: Weight) -> StoredTensor:
        """Read one weight."""
        return self._checkpoint.weight(weight)

    def tokenizer(self) -> "Tokenizer | None":
        """None."""
        return None

    def chat_template(self) -> "ChatTemplate | None":
        """None."""
        return None

    def close(self) -> None:
        """Close nothing."""


def _native(checkpoint: Checkpoint) -> TinyExecutor:
    from yearling.serving.executors.native import NativeExecutor

    return NativeExecutor.load(checkpoint, weights="float32", threads=1)


def _torch(checkpoint: Checkpoint) -> TinyExecutor:
    from yearling.serving.executors.torch import TorchExecutor

    return TorchExecutor.load(checkpoint, weights="float32")


EXECUTORS: Mapping[str, Callable[[Checkpoint], TinyExecutor]] = {"native": _native, "torch": _torch}
