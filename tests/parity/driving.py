"""Drives an executor as the scheduler does, and gives every token's log-probabilities.

Blocks are handed out in no particular order, blocks behind a window go back at once and are
written by others, and a preempted sequence starts again elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from yearling.serving.executor import CacheShape, Executor, GroupBlocks, SequenceInput

__all__ = ["Driver", "log_softmax"]


def log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Log-probabilities (T, V)."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))  # type: ignore[no-any-return]


@dataclass
class _Sequence:
    num_prompt: int
    tokens: list[int] = field(default_factory=list)
    blocks: list[list[int]] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)


class Driver:
    """One executor and the sequences in its cache, by name."""

    def __init__(self, executor: Executor, vocabulary: int) -> None:
        self._executor = executor
        self._vocabulary = vocabulary
        random = np.random.default_rng(3)
        self._free = [
            random.permutation(min(shape.num_blocks, 64)).tolist()
            for shape in executor.cache_shapes
        ]
        self._sequences: dict[str, _Sequence] = {}

    def start(self, name: str, num_prompt: int) -> None:
        """Begin a sequence with nothing in the cache."""
        groups = len(self._executor.cache_shapes)
        self._sequences[name] = _Sequence(num_prompt, [], [[] for _ in range(groups)], [0] * groups)

    def preempt(self, name: str) -> None:
        """Give all blocks of a sequence back."""
        sequence = self._sequences.pop(name)
        for free, blocks in zip(self._free, sequence.blocks, strict=True):
            free.extend(blocks)

    def recompute(self, name: str, tokens: Sequence[int]) -> None:
        """Compute a preempted sequence again: in two parts where its prompt may be split."""
        half = self._sequences[name].num_prompt // 2
        if not self._executor.needs_whole_prompt:
            self.step({name: tokens[:half]})
            tokens = tokens[half:]
        self.step({name: tokens})

    def step(self, parts: dict[str, Sequence[int]]) -> dict[str, NDArray[np.float64]]:
        """Compute more tokens of several sequences in one step: log-probabilities (T, V) each."""
        inputs = [self._input(self._sequences[name], part) for name, part in parts.items()]
        outputs = self._executor.execute(inputs)
        for name, part in parts.items():
            self._sequences[name].tokens.extend(part)
        result = {}
        for name, output in zip(parts, outputs, strict=True):
            assert output.error is None, output.error
            rows = np.empty((len(output.scores), self._vocabulary))
            for row, score in zip(rows, output.scores, strict=True):
                assert score is not None
                assert len(score.top) == self._vocabulary
                for token, logprob in score.top:
                    row[token] = logprob
            result[name] = rows
        return result

    def _input(self, sequence: _Sequence, part: Sequence[int]) -> SequenceInput:
        start = len(sequence.tokens)
        groups = [
            self._grow(number, shape, sequence, start, start + len(part))
            for number, shape in enumerate(self._executor.cache_shapes)
        ]
        return SequenceInput(
            list(part),
            start,
            groups,
            sequence.num_prompt,
            score_targets=[0] * len(part),
            num_score_logprobs=self._vocabulary,
        )

    def _grow(
        self, number: int, shape: CacheShape, sequence: _Sequence, start: int, end: int
    ) -> GroupBlocks:
        free, blocks = self._free[number], sequence.blocks[number]
        if shape.kind == "state":
            if not blocks:
                blocks.append(free.pop())
            return GroupBlocks(tuple(blocks))
        size = self._executor.block_size
        if shape.kind == "window":
            assert shape.window is not None
            first = max(0, start - shape.window + 1) // size
            while sequence.dropped[number] < first:
                free.insert(0, blocks.pop(0))
                sequence.dropped[number] += 1
        while (sequence.dropped[number] + len(blocks)) * size < end:
            blocks.append(free.pop())
        return GroupBlocks(tuple(blocks), sequence.dropped[number])
