"""An executor without a model, with real paged semantics.

It stores token ids where a model stores keys and values. The next token is a hash of every
token *read back* from the blocks the engine named, so a wrong block table, a block shared or
freed too early, a skipped chunk or a wrong start all change the answer. A window group reads the
last tokens only; a state group folds them into one number per slot.
"""

import time
import zlib
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from yearling.serving.executor import (
    CacheShape,
    GroupBlocks,
    SampleInput,
    SampleOutput,
    SequenceInput,
    SequenceOutput,
)

_EMPTY = -1
_PROMPT_UNIT = 1 << 20  # stored beside the token where a prefix cannot be shared


class FakeExecutor:
    """Deterministic and cheap.

    Attributes:
        delay_seconds: Added to every step.
        fail_on_call: Number of the `execute` call, from 1, that raises.
        bad_token: A sequence whose cache holds this id has non-finite logits.
        num_calls: Calls of `execute` so far.
        largest_step: Most tokens a step held.
    """

    block_size = 16
    kv_type = "float32"
    threads = 1

    def __init__(
        self,
        num_blocks: int = 512,
        *,
        vocabulary: int = 256,
        max_step_tokens: int = 512,
        max_logit_rows: int = 512,
        delay_seconds: float = 0.0,
        fail_on_call: int | None = None,
        bad_token: int | None = None,
        weights_version: str = "1",
        shapes: Sequence[CacheShape] | None = None,
        needs_whole_prompt: bool = False,
        can_share_prefixes: bool = True,
    ) -> None:
        self.cache_shapes = (CacheShape("full", num_blocks),) if shapes is None else tuple(shapes)
        self.needs_whole_prompt = needs_whole_prompt
        self.can_share_prefixes = can_share_prefixes
        self.takes_guesses = all(shape.kind == "full" for shape in self.cache_shapes)
        self.max_step_tokens = max_step_tokens
        self.max_logit_rows = max_logit_rows
        self.weights_version = weights_version
        self.vocabulary = vocabulary
        self.delay_seconds = delay_seconds
        self.fail_on_call = fail_on_call
        self.bad_token = bad_token
        self.num_calls = 0
        self.largest_step = 0
        self.is_closed = False
        self._stores = [
            _StateStore(shape) if shape.kind == "state" else _BlockStore(shape, self.block_size)
            for shape in self.cache_shapes
        ]

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step over the stored tokens."""
        self.num_calls += 1
        self._check(step)
        time.sleep(self.delay_seconds)
        if self.num_calls == self.fail_on_call:
            raise RuntimeError("injected failure")
        for part in step:
            for store, group in zip(self._stores, part.groups, strict=True):
                store.write(group, part.start, self._values(part.tokens, part.num_prompt))
        return [self._run(part) for part in step]

    def true_answer(self, prompt: Iterable[int], num_tokens: int) -> list[int]:
        """What this model says, computed without any cache."""
        tokens = list(prompt)
        num_prompt = len(tokens)
        for _ in range(num_tokens):
            values = self._values(tokens, num_prompt)
            key = [value for store in self._stores for value in store.seen(values)]
            tokens.append(next_token(key, self.vocabulary))
        return tokens[num_prompt:]

    def logits(self, tokens: Sequence[int], num_prompt: int | None = None) -> list[list[float]]:
        """One row per token: 1 for the token that follows, else 0."""
        rows = []
        for end in range(1, len(tokens) + 1):
            row = [0.0] * self.vocabulary
            row[next_token(tokens[:end], self.vocabulary)] = 1.0
            rows.append(row)
        return rows

    def close(self) -> None:
        """Nothing to free."""
        self.is_closed = True

    def _check(self, step: Sequence[SequenceInput]) -> None:
        num_tokens = sum(len(part.tokens) for part in step)
        num_rows = sum(
            len(part.score_targets) + len(part.guesses) + (part.sample is not None) for part in step
        )
        assert 0 < num_tokens <= self.max_step_tokens, num_tokens
        assert num_rows <= self.max_logit_rows, num_rows
        self.largest_step = max(self.largest_step, num_tokens)
        for part in step:
            assert part.tokens, "a sequence without tokens"
            assert part.num_prompt > 0, "a sequence without a prompt"
            assert len(part.score_targets) in (0, len(part.tokens))
            if self.needs_whole_prompt and part.start == 0:
                assert len(part.tokens) >= part.num_prompt, "a prompt in pieces"
        for number, store in enumerate(self._stores):
            for part in step:
                store.check(part.groups[number], part.start, len(part.tokens))
            owned = [block for part in step for block in part.groups[number].blocks]
            if not self.can_share_prefixes:
                assert len(set(owned)) == len(owned), "a block in two tables"

    def _values(self, tokens: Sequence[int], num_prompt: int) -> list[int]:
        beside = 0 if self.can_share_prefixes else num_prompt * _PROMPT_UNIT
        return [token + beside for token in tokens]

    def _read(self, part: SequenceInput, num_tokens: int) -> list[int]:
        """What the groups hold for the token before position `num_tokens`."""
        return [
            value
            for store, group in zip(self._stores, part.groups, strict=True)
            for value in store.read(group, num_tokens)
        ]

    def _run(self, part: SequenceInput) -> SequenceOutput:
        end = part.start + len(part.tokens)
        values = self._read(part, end)
        if self._is_broken(values):
            sound = []
            for row, sample in enumerate(part.guesses, end - len(part.guesses)):
                if self._is_broken(self._read(part, row)):
                    break
                sound.append(self._choose(self._read(part, row), sample))
            return SequenceOutput(error="the logits are not finite", guesses=tuple(sound))
        scores = tuple(
            SampleOutput(target, score(self._read(part, part.start + row + 1), target))
            for row, target in enumerate(part.score_targets)
        )
        if part.sample is None:
            return SequenceOutput(scores=scores)
        ahead = len(part.guesses)
        guesses = tuple(
            self._choose(self._read(part, end - ahead + index), sample)
            for index, sample in enumerate(part.guesses)
        )
        return SequenceOutput(self._choose(values, part.sample), scores, guesses=guesses)

    def _is_broken(self, values: list[int]) -> bool:
        return any(value % _PROMPT_UNIT == self.bad_token for value in values)

    def _choose(self, values: list[int], sample: SampleInput) -> SampleOutput:
        key = values if sample.temperature == 0 else [*values, sample.seed % 2**31]
        token = next_token(key, self.vocabulary)
        if sample.allowed is not None:
            words = np.frombuffer(sample.allowed, np.uint8)
            bits = np.unpackbits(words, bitorder="little")
            ids = np.flatnonzero(bits)
            token = int(ids[token % len(ids)])
        return SampleOutput(token, score(values, token))


class _BlockStore:
    """Cells of a full or window group."""

    def __init__(self, shape: CacheShape, block_size: int) -> None:
        self._block_size = block_size
        self._window = shape.window
        self._cells = [array("q", [_EMPTY] * block_size) for _ in range(shape.num_blocks)]

    def check(self, group: GroupBlocks, start: int, length: int) -> None:
        first_seen = 0 if self._window is None else max(0, start - self._window + 1)
        assert group.first_block * self._block_size <= first_seen, "a block dropped too early"
        end = (group.first_block + len(group.blocks)) * self._block_size
        assert end >= start + length, "block table too short"
        assert len(set(group.blocks)) == len(group.blocks), "block twice in a table"
        if self._window is not None:
            most = (self._window + length + 2 * self._block_size) // self._block_size
            assert len(group.blocks) <= most, "a window that keeps too much"

    def write(self, group: GroupBlocks, start: int, values: Sequence[int]) -> None:
        for position, value in enumerate(values, start):
            block, slot = divmod(position, self._block_size)
            self._cells[group.blocks[block - group.first_block]][slot] = value

    def read(self, group: GroupBlocks, num_tokens: int) -> list[int]:
        first = 0 if self._window is None else max(0, num_tokens - self._window)
        values = []
        for position in range(first, num_tokens):
            block, slot = divmod(position, self._block_size)
            values.append(self._cells[group.blocks[block - group.first_block]][slot])
        return values

    def seen(self, values: list[int]) -> list[int]:
        return values if self._window is None else values[-self._window :]


class _StateStore:
    """One number per slot, and what it was after each token of the step."""

    def __init__(self, shape: CacheShape) -> None:
        self._slots: list[dict[int, int]] = [{} for _ in range(shape.num_blocks)]

    def check(self, group: GroupBlocks, start: int, length: int) -> None:
        assert len(group.blocks) == 1, "a state has one slot"

    def write(self, group: GroupBlocks, start: int, values: Sequence[int]) -> None:
        states = self._slots[group.blocks[0]]
        state = states[start] if start else 0
        states.clear()
        for position, value in enumerate(values, start):
            state = zlib.crc32(array("q", [state, value]).tobytes())
            states[position + 1] = state

    def read(self, group: GroupBlocks, num_tokens: int) -> list[int]:
        return [self._slots[group.blocks[0]][num_tokens]]

    def seen(self, values: list[int]) -> list[int]:
        state = 0
        for value in values:
            state = zlib.crc32(array("q", [state, value]).tobytes())
        return [state]


def next_token(tokens: Sequence[int], vocabulary: int) -> int:
    """The id that follows these."""
    return zlib.crc32(array("q", tokens).tobytes()) % vocabulary


def score(tokens: Sequence[int], target: int) -> float:
    """A made-up log-probability of `target` after these ids."""
    return -(zlib.crc32(array("q", [*tokens, target]).tobytes()) % 1000) / 100.0
