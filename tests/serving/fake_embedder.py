"""An encoder without a model: a vector tells the tokens it was made of."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WIDTH = 4


def vector_of(tokens: Sequence[int]) -> list[float]:
    """The fake model's vector: unlike for unlike texts, of length one."""
    values = np.array([1.0, len(tokens), sum(tokens), tokens[-1]])
    return [float(value) for value in (values / np.linalg.norm(values)).astype(np.float32)]


class FakeEmbedder:
    """Deterministic and cheap.

    Attributes:
        steps: The texts of every call so far.
        fail_on_call: Number of the call, from 1, that raises.
        bad_token: A text that holds this id gets a vector that is not finite.
    """

    def __init__(
        self,
        *,
        max_step_tokens: int = 64,
        fail_on_call: int | None = None,
        bad_token: int | None = None,
    ) -> None:
        self.max_step_tokens = max_step_tokens
        self.fail_on_call = fail_on_call
        self.bad_token = bad_token
        self.steps: list[list[list[int]]] = []

    def embed(self, sequences: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """One vector per text."""
        self.steps.append([list(tokens) for tokens in sequences])
        assert sequences
        assert sum(map(len, sequences)) <= self.max_step_tokens
        if len(self.steps) == self.fail_on_call:
            raise RuntimeError("injected failure")
        rows = [
            [float("nan")] * WIDTH if self.bad_token in tokens else vector_of(tokens)
            for tokens in sequences
        ]
        return np.array(rows, np.float32)
