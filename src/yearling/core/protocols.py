"""What a method may ask of a model, as small protocols named for what they promise.

The engine, a remote OpenAI endpoint and a scripted fake each implement those they can; a
method names in its signature the ones it needs.

Legend: T tokens, E width of the residual stream.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from yearling.core.messages import Message

__all__ = ["ChatModel", "RolloutModel", "Scorer", "TokenModel"]


@runtime_checkable
class ChatModel(Protocol):
    """Answers a conversation."""

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        grammar: str | None = None,
    ) -> Message:
        """Give the assistant's next message.

        Args:
            tools: Functions it may call, in OpenAI's form.
            grammar: The answer matches it exactly; None leaves the answer free.
        Raises:
            UnsupportedError: this model cannot call tools or cannot follow a grammar.
        """
        ...


@runtime_checkable
class TokenModel(Protocol):
    """Continues token ids, without text, template or tokenizer."""

    def generate(
        self,
        prompt: Sequence[int] | NDArray[np.float32],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> tuple[int, ...]:
        """Give the ids that follow.

        Args:
            prompt: Ids, or embedding rows [T, E] injected in their place.
            temperature: 0 is greedy.
            seed: The same seed gives the same ids, whatever else runs.
        """
        ...


@runtime_checkable
class Scorer(Protocol):
    """Says how likely a text was."""

    def score(self, tokens: Sequence[int]) -> tuple[float, ...]:
        """Give log p(token | all before it) in nats, for each token but the first."""
        ...


@runtime_checkable
class RolloutModel(TokenModel, Protocol):
    """A token model whose weights a trainer replaces while it serves."""

    def update_weights(
        self, tensors: Iterable[tuple[str, NDArray[np.generic]]], *, version: str
    ) -> None:
        """Replace the named tensors; nothing computed before is reused afterwards."""
        ...

    def pause(self) -> None:
        """Finish the running step and start no other."""
        ...

    def resume(self) -> None:
        """Go on with the requests that waited."""
        ...
