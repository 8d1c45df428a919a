"""The seam between the scheduler and whatever runs a model's step."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

__all__ = [
    "AdapterExecutor",
    "CacheShape",
    "Executor",
    "GroupBlocks",
    "RechoosingExecutor",
    "SampleInput",
    "SampleOutput",
    "SequenceInput",
    "SequenceOutput",
]


@dataclass(frozen=True, slots=True)
class SampleInput:
    """What choosing one token needs; the meaning of each field is `SamplingParams`'.

    Attributes:
        seed: Key of the counter-based generator, 64 bits.
        output_index: Its counter: how many tokens this request has generated before.
        history: Prompt and generated tokens, only when a penalty is set.
        num_generated: Trailing entries of `history` that were generated.
        logit_bias: (token id, bias) pairs.
        num_logprobs: Alternatives to report; None reports no log-probability at all.
        allowed: Bit i % 8 of byte i // 8 says whether token i may be chosen; whole words of 32
            bits. None allows all.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float
    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    seed: int
    output_index: int
    history: Sequence[int] = ()
    num_generated: int = 0
    logit_bias: Sequence[tuple[int, float]] = ()
    num_logprobs: int | None = None
    allowed: bytes | None = None


@dataclass(frozen=True, slots=True)
class CacheShape:
    """One group of layers that keep the same tokens of a sequence.

    Attributes:
        kind: `full` keeps every token; `window` the last `window` ones; `state` nothing but one
            slot per sequence, overwritten in place.
        num_blocks: Blocks there are, numbered from 0; slots of a `state`.
        window: Tokens that a `window` keeps, the newest included; None elsewhere.
    """

    kind: Literal["full", "window", "state"]
    num_blocks: int
    window: int | None = None


@dataclass(frozen=True, slots=True)
class GroupBlocks:
    """Where one sequence keeps what one cache group holds of it.

    Attributes:
        blocks: Blocks in order; the one slot of a `state`.
        first_block: Blocks dropped before the first one here: token i lies in
            blocks[i // block_size - first_block].
    """

    blocks: Sequence[int]
    first_block: int = 0


@dataclass(frozen=True, slots=True)
class SequenceInput:
    """The part of a step that belongs to one sequence.

    Attributes:
        tokens: Ids computed in this step, at least one.
        start: Position of the first of them; everything before is in the cache already.
        groups: Per cache group of the executor, covering start + len(tokens).
        num_prompt: Leading tokens of the sequence that are its prompt; what a prefix mask, two
            positions and length-dependent rotations go by.
        sample: How to choose the token after the last one; None chooses none.
        score_targets: When not empty: for each of `tokens`, the id that really follows, or -1
            for none; its log-probability is reported.
        num_score_logprobs: Alternatives reported beside each scored target.
        adapter: Number that `load_adapter` was given, or None.
        guesses: How to choose the tokens after each of the last ones but the very last, which
            `sample` is for: the tokens behind the first of them are guesses.
    """

    tokens: Sequence[int]
    start: int
    groups: Sequence[GroupBlocks]
    num_prompt: int = 0
    sample: SampleInput | None = None
    score_targets: Sequence[int] = ()
    num_score_logprobs: int = 0
    adapter: int | None = None
    guesses: Sequence[SampleInput] = ()


@dataclass(frozen=True, slots=True)
class SampleOutput:
    """A chosen or scored token; `logprob` is NaN when none was asked for."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True, slots=True)
class SequenceOutput:
    """What a step gave for one sequence.

    Attributes:
        sample: The chosen token, or None when none was asked for.
        scores: One per entry of `score_targets`; None where the target was -1.
        error: Set when this sequence alone failed (non-finite logits); the others are valid.
        guesses: The chosen tokens, one per entry of `guesses`; of a sequence that failed those
            before its first broken row.
    """

    sample: SampleOutput | None = None
    scores: tuple[SampleOutput | None, ...] = ()
    error: str | None = None
    guesses: tuple[SampleOutput, ...] = ()


class Executor(Protocol):
    """Runs steps of one loaded model over its own paged cache.

    Attributes:
        cache_shapes: Its cache groups; none in an encoder, which generates nothing.
        block_size: Tokens per block.
        max_step_tokens: Tokens one step may hold.
        max_logit_rows: Rows per step whose logits are computed: one per `sample`, and
            `len(tokens)` per sequence with `score_targets`.
        kv_type: `float32`, `float16` or `bfloat16`; part of every block key.
        weights_version: Changes whenever the weights do; part of every block key.
        needs_whole_prompt: A prompt is computed in one step, because its tokens see each other.
        can_share_prefixes: Whether equal prefixes give equal keys and values, whatever follows;
            not so for states, prefix masks and rotations that depend on the length.
        threads: Threads that compute.
        takes_guesses: Whether tokens computed in vain leave nothing behind that the right ones
            in their place do not overwrite.
    """

    cache_shapes: tuple[CacheShape, ...]
    block_size: int
    max_step_tokens: int
    max_logit_rows: int
    kv_type: str
    weights_version: str
    needs_whole_prompt: bool
    can_share_prefixes: bool
    takes_guesses: bool
    threads: int

    def execute(self, step: Sequence[SequenceInput]) -> list[SequenceOutput]:
        """Run one step; afterwards the keys and values of all its tokens are in the cache."""
        ...


@runtime_checkable
class RechoosingExecutor(Executor, Protocol):
    """An executor whose last step's logits are still there."""

    def choose_again(self, samples: Sequence[tuple[int, SampleInput]]) -> list[SampleOutput | None]:
        """Choose other tokens in place of those that the last step chose.

        Args:
            samples: Numbers of sequences of the last step that chose a token, without penalties
                or bias, and how to choose another.

        Returns:
            The tokens; None where logits are not finite.
        """
        ...


@runtime_checkable
class AdapterExecutor(Executor, Protocol):
    """An executor that adds adapters of low rank to sequences that name them."""

    def load_adapter(self, number: int, folder: Path) -> str:
        """Let sequences name an adapter by a number that is free; give its version.

        Raises:
            ModelError: it cannot be read, or is of another model.
            UnsupportedError: the model takes none.
        """
        ...

    def unload_adapter(self, number: int) -> None:
        """Free an adapter that no sequence of a later step names."""
        ...
