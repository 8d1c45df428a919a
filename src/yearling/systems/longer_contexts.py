"""Decoders that begin from one base and learn longer contexts, and what they then find.

The base is `long_context_base`'s. How its positions are stretched, what is trained of it and how
attention is computed meanwhile differ from arm to arm; samples, steps and tests are the same.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from yearling.evaluation.long_context import (
    Sample,
    accuracy,
    altered_numbers,
    document,
    first_sentence,
    passkey,
)
from yearling.systems.long_context_base import (
    KNOWN,
    VOCABULARY,
    asked_lines,
    logits_of,
    long_context_base,
    rows_of,
    stretched_base,
    tuning_sample,
)
from yearling.systems.system import Trial

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["Task", "Tuning", "found", "held_out_texts", "tune", "tuned_base"]

Task = Literal["lines", "passkey", "first_sentence", "altered_numbers", "closed_book"]

_LINES = 8
_TEST, _TEXT = 11, 13  # begin the seeds of what is tested, so that nothing of it is trained on


@dataclass(frozen=True)
class Tuning:
    """How an arm goes on from the base.

    Attributes:
        tokens: Of each sequence.
        steps: Of the optimizer.
        lr: Learning rate, cosine.
        batch_tokens: Of a step.
        sample: Draws a sequence.
    """

    tokens: int
    steps: int
    lr: float
    batch_tokens: int = 2_048
    sample: Callable[[np.random.Generator, int], Sample] = tuning_sample


def tune(decoder: "TorchDecoder", tuning: Tuning, seed: int) -> float:
    """Train what has `requires_grad`, and give the seconds it took.

    Args:
        seed: Of the samples; arms of one seed see the same ones.
    """
    from yearling.systems.tiny_bases import Training, fit

    def draw(step: int) -> "Rows":
        random = np.random.default_rng([seed, step])
        count = tuning.batch_tokens // tuning.tokens
        return rows_of((tuning.sample(random, tuning.tokens) for _ in range(count)), has_text=True)

    return fit(decoder, draw, Training(tuning.steps, tuning.lr, seed=seed))


def tuned_base(
    trial: Trial, arm: str, method: str | None, tokens: int, tuning: Tuning
) -> "TorchDecoder":
    """Give the base with its positions stretched, tuned.

    Args:
        arm: Its name, for whoever watches.
        method: Of stretching, as `training.context` has it; None leaves positions as they are.
        tokens: Context afterwards.
    """
    from yearling.training.context import ContextConfig

    if method is None:
        decoder = long_context_base(trial.say)
    else:
        context = ContextConfig.model_validate({"tokens": tokens, "method": method})
        decoder = stretched_base(context, trial.say)
    seconds = tune(decoder, tuning, trial.seed)
    trial.say(f"{arm}: {tuning.steps} steps in {seconds:.1f} s")
    return decoder


def found(
    decoder: "TorchDecoder", task: Task, length: int, seed: int, num_samples: int = 40
) -> float:
    """Give the share of answers that are right in sequences of a length, in %."""
    random = np.random.default_rng([_TEST, seed, length])
    samples = (_sample(random, task, length) for _ in range(num_samples))
    return accuracy(logits_of(decoder), samples)


def _sample(random: np.random.Generator, task: Task, length: int) -> Sample:
    facts: dict[str, Any] = {"known": KNOWN, "num_questions": _LINES}
    match task:
        case "lines":
            return asked_lines(random, length, _LINES)
        case "passkey":
            return passkey(random, length, VOCABULARY)
        case "first_sentence":
            return first_sentence(random, length, VOCABULARY)
        case "altered_numbers":
            return altered_numbers(random, length, VOCABULARY, **facts)
        case "closed_book":
            return altered_numbers(random, length, VOCABULARY, **facts, is_open=False)


def held_out_texts(
    seed: int, count: int, length: int, num_successors: int = 2
) -> list[NDArray[np.int64]]:
    """Draw documents that no arm was trained on, each of `length` ids behind a beginning."""
    random = np.random.default_rng([_TEXT, seed])
    return [
        np.append(VOCABULARY.begin, document(random, length, VOCABULARY, num_successors))
        for _ in range(count)
    ]
