"""Engines driven by hand: requests of a fixed length in, token ids out, every step noted.

For systems whose claim is about serving.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import TYPE_CHECKING

from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.request import GenerationRequest, SamplingParams

if TYPE_CHECKING:
    from yearling.serving.executor import CacheShape, SequenceInput, SequenceOutput
    from yearling.serving.model import LoadedExecutor

__all__ = [
    "FixedRequest",
    "RecordedSteps",
    "answers",
    "drive",
    "held_tokens",
    "new_engine",
    "new_request",
]

_names = count()


@dataclass(frozen=True)
class FixedRequest:
    """A prompt and the number of tokens to continue it by; nothing else ends the answer."""

    prompt: Sequence[int]
    num_new: int


class RecordedSteps:
    """An executor that notes what each step holds, and may show fewer blocks than there are.

    Attributes:
        num_sequences: Sequences of each step.
        num_held: Tokens in the cache after each step, those of shared blocks once.
        num_blocks_held: Blocks in which they lie.
    """

    def __init__(self, inner: "LoadedExecutor", num_blocks: int | None = None) -> None:
        """Stand before an executor with one cache group.

        Args:
            inner: Runs the steps.
            num_blocks: Blocks to show; None shows all.
        """
        [shape] = inner.cache_shapes
        assert num_blocks is None or num_blocks <= shape.num_blocks, "more than there are"
        self._inner = inner
        self.block_size = inner.block_size
        self.max_step_tokens = inner.max_step_tokens
        self.max_logit_rows = inner.max_logit_rows
        self.kv_type = inner.kv_type
        self.weights_version = inner.weights_version
        self.needs_whole_prompt = inner.needs_whole_prompt
        self.can_share_prefixes = inner.can_share_prefixes
        self.takes_guesses = inner.takes_guesses
        self.threads = inner.threads
        self.cache_shapes: tuple[CacheShape, ...] = (
            replace(shape, num_blocks=num_blocks or shape.num_blocks),
        )
        self.num_sequences: list[int] = []
        self.num_held: list[int] = []
        self.num_blocks_held: list[int] = []

    @property
    def num_cache_tokens(self) -> int:
        """Tokens for which there is room."""
        return self.cache_shapes[0].num_blocks * self.block_size

    def execute(self, step: "Sequence[SequenceInput]") -> "list[SequenceOutput]":
        """Run a step and note it."""
        held, blocks = held_tokens(step, self.block_size)
        self.num_sequences.append(len(step))
        self.num_held.append(held)
        self.num_blocks_held.append(blocks)
        return self._inner.execute(step)


def held_tokens(step: "Sequence[SequenceInput]", block_size: int) -> tuple[int, int]:
    """Give the tokens in the cache after a step, and the blocks that its sequences hold.

    A token or a block that several sequences share counts once.
    """
    filled: dict[int, int] = {}
    for part in step:
        end = part.start + len(part.tokens)
        for index, block in enumerate(part.groups[0].blocks):
            tokens = min(block_size, max(0, end - index * block_size))
            filled[block] = max(filled.get(block, 0), tokens)
    return sum(filled.values()), len(filled)


def new_engine(
    executor: RecordedSteps, max_sequences: int | None = None, *, is_sharing: bool = True
) -> Engine:
    """Build an engine whose answers end at their length alone.

    Args:
        executor: Runs the steps.
        max_sequences: Requests running at once; None takes as many as a step may hold.
        is_sharing: Whether equal prefixes share blocks.
    """
    return Engine(
        executor,
        None,
        context=executor.num_cache_tokens,
        eos_token_ids=(),
        config=EngineConfig(
            max_sequences=max_sequences or executor.max_logit_rows,
            max_waiting=None,
            use_prefix_cache=is_sharing,
        ),
    )


def new_request(
    asked: FixedRequest, *, temperature: float = 0.0, seed: int = 0
) -> GenerationRequest:
    """Give a request a name of its own; greedy by default."""
    params = SamplingParams(max_tokens=asked.num_new, temperature=temperature, seed=seed)
    return GenerationRequest(f"request-{next(_names)}", list(asked.prompt), params)


def drive(engine: Engine, requests: Sequence[FixedRequest], *, is_saturated: bool = False) -> int:
    """Run requests that all wait at the start, and give the number of tokens generated.

    Args:
        engine: Empty before and after.
        requests: In the order of arrival.
        is_saturated: Whether to stop when none waits any more, and drop those under way: what
            comes then is only the end of the last ones.
    """
    before = engine.stats().generated_tokens
    for request in requests:
        engine.add(new_request(request))
    while engine.has_work and not (is_saturated and engine.stats().num_waiting == 0):
        engine.step()
    engine.cancel_all()
    return engine.stats().generated_tokens - before


def answers(engine: Engine, requests: Sequence[FixedRequest]) -> list[list[int]]:
    """Give the token ids of every answer, greedy, all requests running together."""
    named = [new_request(request) for request in requests]
    found: dict[str, list[int]] = {request.request_id: [] for request in named}
    for request in named:
        engine.add(request)
    while engine.has_work:
        for event in engine.step():
            found[event.request_id].extend(event.tokens)
    return list(found.values())
