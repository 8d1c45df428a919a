"""A step of the scheduler as the native core takes it: arrays, and which logits belong to whom."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, count

import numpy as np
from numpy.typing import NDArray

from yearling.kernels.program import GroupTables, StepArrays
from yearling.serving.executor import GroupBlocks, SampleInput, SampleOutput, SequenceInput

__all__ = [
    "StepLayout",
    "flat_offsets",
    "group_tables",
    "lay_out",
    "masks",
    "read_samples",
    "to_ints",
]

Ints = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class StepLayout:
    """A step as arrays, and which logit rows belong to which sequence.

    Attributes:
        arrays: What the native program runs.
        samples: By number of the sequence: logit row and how to choose, of its guesses first.
        scores: By number of the sequence: logit row, target, alternatives.
    """

    arrays: StepArrays
    samples: dict[int, list[tuple[int, SampleInput]]]
    scores: dict[int, list[tuple[int, int, int]]]


def lay_out(step: Sequence[SequenceInput], *, kinds: Sequence[str], prompt_tail: int) -> StepLayout:
    """Turn a step into arrays.

    Args:
        step: Sequences in any order.
        kinds: Kind of each cache group, as `CacheShape` has it.
        prompt_tail: Trailing tokens of a prompt that do not belong to its prefix.
    """
    logit_rows: list[int] = []
    samples: dict[int, list[tuple[int, SampleInput]]] = {}
    scores: dict[int, list[tuple[int, int, int]]] = {}
    first = 0
    for number, sequence in enumerate(step):
        length = len(sequence.tokens)
        if sequence.score_targets:
            scores[number] = [
                (len(logit_rows) + i, target, sequence.num_score_logprobs)
                for i, target in enumerate(sequence.score_targets)
            ]
            logit_rows.extend(range(first, first + length))
        elif sequence.sample is not None:
            logit_rows.extend(range(first + length - 1 - len(sequence.guesses), first + length))
        if sequence.sample is not None:
            wanted = [*sequence.guesses, sequence.sample]
            row = len(logit_rows) - len(wanted)
            samples[number] = [(row + i, sample) for i, sample in enumerate(wanted)]
        first += length
    tables, slots = _places(step, kinds)
    arrays = StepArrays(
        tokens=to_ints(chain.from_iterable(sequence.tokens for sequence in step)),
        starts=to_ints(sequence.start for sequence in step),
        lengths=to_ints(len(sequence.tokens) for sequence in step),
        tables=tables,
        logit_rows=to_ints(logit_rows),
        prefixes=to_ints(max(0, sequence.num_prompt - prompt_tail) for sequence in step),
        slots=slots,
        adapters=_adapters(step),
    )
    return StepLayout(arrays, samples, scores)


def group_tables(groups: Sequence[GroupBlocks]) -> GroupTables:
    """One cache group's blocks of every sequence, padded with 0."""
    blocks = np.zeros((len(groups), max(len(group.blocks) for group in groups)), np.int32)
    for row, group in zip(blocks, groups, strict=True):
        row[: len(group.blocks)] = group.blocks
    return GroupTables(blocks, to_ints(group.first_block for group in groups))


def read_samples(
    arrays: tuple[Ints, NDArray[np.float32], Ints, NDArray[np.float32]],
    num_logprobs: Sequence[int],
) -> list[SampleOutput | None]:
    """Read the core's chosen or scored tokens; None where logits were not finite."""
    tokens, logprobs, top_tokens, top_logprobs = (array.tolist() for array in arrays)
    return [
        None
        if token < 0
        else SampleOutput(token, logprob, tuple(zip(ids[:count], values[:count], strict=True)))
        for token, logprob, ids, values, count in zip(
            tokens, logprobs, top_tokens, top_logprobs, num_logprobs, strict=True
        )
    ]


def to_ints(values: Iterable[int]) -> Ints:
    """Integers as the core takes them."""
    return np.array(list(values), np.int32)


def masks(allowed: Sequence[bytes | None]) -> tuple[NDArray[np.uint32], Ints]:
    """Masks one below the other, and for each entry the row that is its own; -1 for none."""
    given = [np.frombuffer(mask, np.uint32) for mask in allowed if mask is not None]
    numbers = count()
    rows = to_ints(-1 if mask is None else next(numbers) for mask in allowed)
    return np.stack(given) if given else np.zeros((0, 0), np.uint32), rows


def flat_offsets(lengths: Iterable[int]) -> Ints:
    """Where each of several runs begins when they lie behind each other, and where all end."""
    return np.array([0, *accumulate(lengths)], np.int32)


def _places(
    step: Sequence[SequenceInput], kinds: Sequence[str]
) -> tuple[tuple[GroupTables, ...], Ints | None]:
    tables = []
    slots = None
    for number, kind in enumerate(kinds):
        groups = [sequence.groups[number] for sequence in step]
        if kind == "state":
            slots = to_ints(group.blocks[0] for group in groups)
        else:
            tables.append(group_tables(groups))
    return tuple(tables), slots


def _adapters(step: Sequence[SequenceInput]) -> Ints | None:
    if all(sequence.adapter is None for sequence in step):
        return None
    return to_ints(-1 if sequence.adapter is None else sequence.adapter for sequence in step)
