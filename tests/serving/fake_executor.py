"""An executor without a model, with real paged semantics.

It stores token ids where a model stores keys and values. The next token is a hash of every
token *read back* from the blocks the engine named, so a wrong block table, a block shared or
freed too early, a skipped chunk or a wrong start all change the answer.
"""

import time
import zlib
from array import array
from collections.abc import Sequence

from yearling.serving.executor import SampleOutput, SequenceInput, SequenceOutput

_EMPTY = -1


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
    ) -> None:
        self.num_blocks = num_blocks
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
        self._cache = [array("q", [_EMPTY] * self.block_size) for _ in range(num_blocks)]

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step over the stored tokens."""
        self.num_calls += 1
        self._check(step)
        time.sleep(self.delay_seconds)
        if self.num_calls == self.fail_on_call:
            raise RuntimeError("injected failure")
        for part in step:
            self._write(part)
        return [self._run(part) for part in step]

    def logits(self, tokens: Sequence[int]) -> list[list[float]]:
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
        num_rows = sum(len(part.score_targets) + (part.sample is not None) for part in step)
        assert 0 < num_tokens <= self.max_step_tokens, num_tokens
        assert num_rows <= self.max_logit_rows, num_rows
        self.largest_step = max(self.largest_step, num_tokens)
        for part in step:
            assert part.tokens, "a sequence without tokens"
            end = part.start + len(part.tokens)
            assert len(part.block_table) * self.block_size >= end, "block table too short"
            assert len(set(part.block_table)) == len(part.block_table), "block twice in a table"
            assert len(part.score_targets) in (0, len(part.tokens))

    def _write(self, part: SequenceInput) -> None:
        for position, token in enumerate(part.tokens, part.start):
            block, slot = divmod(position, self.block_size)
            self._cache[part.block_table[block]][slot] = token

    def _read(self, part: SequenceInput) -> list[int]:
        tokens: list[int] = []
        for block in part.block_table:
            tokens.extend(self._cache[block])
        return tokens[: part.start + len(part.tokens)]

    def _run(self, part: SequenceInput) -> SequenceOutput:
        tokens = self._read(part)
        if self.bad_token in tokens:
            return SequenceOutput(error="the logits are not finite")
        scores = tuple(
            SampleOutput(target, score(tokens[: part.start + row + 1], target))
            for row, target in enumerate(part.score_targets)
        )
        if part.sample is None:
            return SequenceOutput(scores=scores)
        key = tokens if part.sample.temperature == 0 else [*tokens, part.sample.seed % 2**31]
        token = next_token(key, self.vocabulary)
        return SequenceOutput(sample=SampleOutput(token, score(tokens, token)), scores=scores)


def next_token(tokens: Sequence[int], vocabulary: int) -> int:
    """The id that follows these."""
    return zlib.crc32(array("q", tokens).tobytes()) % vocabulary


def score(tokens: Sequence[int], target: int) -> float:
    """A made-up log-probability of `target` after these ids."""
    return -(zlib.crc32(array("q", [*tokens, target]).tobytes()) % 1000) / 100.0
