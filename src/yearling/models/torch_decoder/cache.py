"""What a decoder asks of whatever keeps earlier tokens' keys, values and states.

Legend: T tokens of a step, K keys a sequence sees, G key heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from yearling.models.torch_decoder.segments import Segments

__all__ = ["DecoderCache", "FixedKeys", "SeenKeys", "State"]


class SeenKeys(NamedTuple):
    """Keys and values that one sequence's tokens may see, oldest first.

    Attributes:
        keys: (K, G, D).
        values: (K, G, D).
        first: Position of the first of them; a window may have dropped older ones.
    """

    keys: Tensor
    values: Tensor
    first: int


class State(NamedTuple):
    """What a state space keeps of one sequence.

    Attributes:
        inputs: The convolution's last inputs (inner, taps - 1).
        hidden: State of the scan (inner, N), float32.
    """

    inputs: Tensor
    hidden: Tensor


@runtime_checkable
class DecoderCache(Protocol):
    """Keeps what sequences leave behind; the step's sequences are known to it already."""

    def extend(
        self, layer: int, keys: Float[Tensor, "T G D"], values: Float[Tensor, "T G D"]
    ) -> Sequence[SeenKeys]:
        """Keep the step's keys and values of a layer, and give each sequence's, with earlier."""
        ...

    def state(self, layer: int, sequence: int) -> State | None:
        """A layer's state before the step, by the sequence's number in it; None at its start."""
        ...

    def keep_state(self, layer: int, sequence: int, state: State) -> None:
        """Keep a layer's state after the step."""
        ...


@dataclass(frozen=True, eq=False)
class FixedKeys:
    """A cache that every sequence begins with and that keeps nothing: a learned prefix.

    Attributes:
        segments: The step's sequences; their positions begin behind the prefix.
        keys: Of every layer (layers, P, G, D), turned by no positions.
        values: Of every layer (layers, P, G, D).
    """

    segments: Segments
    keys: Float[Tensor, "layers P G D"]
    values: Float[Tensor, "layers P G D"]

    def extend(
        self, layer: int, keys: Float[Tensor, "T G D"], values: Float[Tensor, "T G D"]
    ) -> Sequence[SeenKeys]:
        """Give each sequence's keys and values behind the layer's own."""
        first_keys = self.keys[layer].to(keys.dtype)
        first_values = self.values[layer].to(values.dtype)
        return [
            SeenKeys(
                torch.cat([first_keys, keys[segment.rows]]),
                torch.cat([first_values, values[segment.rows]]),
                0,
            )
            for segment in self.segments
        ]

    def state(self, layer: int, sequence: int) -> State | None:
        """Nothing: a prefix is for attention."""
        return None

    def keep_state(self, layer: int, sequence: int, state: State) -> None:
        """Keep nothing, as every sequence is whole in its step."""
        del state
