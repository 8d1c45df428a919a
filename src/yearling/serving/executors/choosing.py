"""What executors do around a step outside the native core: which logits, which tokens.

Legend: V vocabulary.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import RequestError
from yearling.kernels.reference_sampling import SamplingOptions, log_softmax, sample
from yearling.serving.executor import SampleInput, SampleOutput, SequenceInput, SequenceOutput

__all__ = ["LogitRows", "answer", "check_tokens", "logit_rows"]

_NOT_FINITE = "the model's logits are not finite: its weights, or a step, are broken."

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogitRows:
    """Which rows of a step need logits.

    Attributes:
        rows: Rows of the step, in order.
        of_sequence: Per sequence, its entries of `rows`.
    """

    rows: list[int]
    of_sequence: list[slice]


def logit_rows(step: Sequence[SequenceInput]) -> LogitRows:
    """List the rows whose logits a step wants: all that are scored, else the last if sampled."""
    rows: list[int] = []
    of_sequence = []
    first = 0
    for sequence in step:
        before, end = len(rows), first + len(sequence.tokens)
        if sequence.score_targets:
            rows.extend(range(first, end))
        elif sequence.sample is not None:
            rows.append(end - 1)
        of_sequence.append(slice(before, len(rows)))
        first = end
    return LogitRows(rows, of_sequence)


def answer(sequence: SequenceInput, logits: NDArray[np.float32]) -> SequenceOutput:
    """Choose and score by a sequence's logits (rows, V)."""
    if not np.isfinite(logits).all():
        return SequenceOutput(error=_NOT_FINITE)
    values = logits.astype(np.float64)
    scores = tuple(
        None if target < 0 else _scored(row, target, sequence.num_score_logprobs)
        for row, target in zip(values, sequence.score_targets, strict=False)
    )
    if sequence.sample is None:
        return SequenceOutput(None, scores)
    return SequenceOutput(_chosen(values[-1], sequence.sample), scores)


def check_tokens(tokens: Sequence[int], *, context: int, vocabulary: int) -> None:
    """Check a sequence that was given as ids.

    Raises:
        RequestError: no tokens, too many for the context, or ids outside the vocabulary.
    """
    if not 0 < len(tokens) <= context:
        raise RequestError(f"{len(tokens)} tokens given; 1 to {context} fit.", parameter="tokens")
    for token in tokens:
        if not 0 <= token < vocabulary:
            raise RequestError(
                f"token id {token} is outside the vocabulary of {vocabulary}.", parameter="tokens"
            )


def _chosen(logits: Floats, wanted: SampleInput) -> SampleOutput:
    options = SamplingOptions(
        temperature=wanted.temperature,
        top_k=wanted.top_k,
        top_p=wanted.top_p,
        min_p=wanted.min_p,
        repetition_penalty=wanted.repetition_penalty,
        presence_penalty=wanted.presence_penalty,
        frequency_penalty=wanted.frequency_penalty,
        seed=wanted.seed % 2**64,
        output_index=wanted.output_index,
        history=wanted.history,
        num_generated=wanted.num_generated,
        logit_bias=dict(wanted.logit_bias),
        allowed=wanted.allowed,
    )
    token = sample(logits, options)
    if wanted.num_logprobs is None:
        return SampleOutput(token, math.nan)
    return _scored(logits, token, wanted.num_logprobs)


def _scored(logits: Floats, token: int, num_logprobs: int) -> SampleOutput:
    """Log-probabilities of the model's own distribution, before penalties."""
    logprobs = log_softmax(logits)
    likeliest = np.argsort(-logprobs, kind="stable")[:num_logprobs] if num_logprobs else ()
    top = tuple((int(other), float(logprobs[other])) for other in likeliest)
    return SampleOutput(token, float(logprobs[token]), top)
