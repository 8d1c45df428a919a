"""Llama 2 Long: a raised rotary base and continued pretraining on long sequences.

One decoder that finds things in 128 tokens goes on at 1,024: with its rotary base raised from
10,000 to 500,000, with positions divided by eight, and as it is, over the same samples. How the
loss falls along a document says whether all of the context is used. Another decoder sees nothing
but long sequences from its first step, and takes half as many operations again.

Source: Xiong et al. 2023, arXiv:2309.16039.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yearling.evaluation.long_context import Sample, document, loss_by_position
from yearling.systems.long_context_base import (
    SIZES,
    STD,
    VOCABULARY,
    base_operations,
    forward_operations,
    lesson,
    logits_of,
    long_context_base,
    rows_of,
    text_loss,
    tuning_sample,
)
from yearling.systems.longer_contexts import Tuning, found, held_out_texts, tuned_base
from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["power_law", "system"]

_TOKENS = 1_024
_SUCCESSORS = 8  # a chain of so many is still being learned after a thousand tokens
_PARTS = 64
_SCRATCH_SIZES = {**SIZES, "max_position_embeddings": _TOKENS, "rope_theta": 500_000.0}
_SCRATCH_LR = 3e-3
_MORE = 1.5  # operations from scratch over those of base and tuning
_ARMS: Mapping[str, str | None] = {"raised": "base", "interpolated": "linear", "same": None}


def _long_sample(random: np.random.Generator, length: int) -> Sample:
    """Draw a document that takes long to learn, or, twice as often, what the base has learned."""
    if random.random() < 2 / 3:
        return tuning_sample(random, length)
    text = document(random, length - 1, VOCABULARY, _SUCCESSORS)
    return Sample(np.append(VOCABULARY.begin, text), np.zeros(length, bool))


_TUNING = Tuning(_TOKENS, steps=300, lr=1e-3, sample=_long_sample)


def _run(trial: Trial) -> Mapping[str, float]:
    interpolated = _tuned(trial, "interpolated")
    first = found(interpolated, "first_sentence", _TOKENS, trial.seed)
    if trial.is_ablated:
        same = _tuned(trial, "same")
        return {
            "first_sentence_gain": found(same, "first_sentence", _TOKENS, trial.seed) - first,
        }
    raised = _tuned(trial, "raised")
    figures = {
        "first_sentence_raised": found(raised, "first_sentence", _TOKENS, trial.seed),
        "first_sentence_interpolated": first,
        **_along(trial, {"raised": raised, "interpolated": interpolated}),
        **_short(raised, trial.seed),
        **_scratch(trial, raised),
    }
    return {**figures, "first_sentence_gain": figures["first_sentence_raised"] - first}


def _tuned(trial: Trial, arm: str) -> "TorchDecoder":
    return tuned_base(trial, arm, _ARMS[arm], _TOKENS, _TUNING)


# --- loss along a document ---------------------------------------------------------------------


def _along(trial: Trial, decoders: "Mapping[str, TorchDecoder]") -> dict[str, float]:
    texts = held_out_texts(trial.seed, 32, _TOKENS, _SUCCESSORS)
    figures = {}
    for name, decoder in decoders.items():
        losses = loss_by_position(logits_of(decoder), texts, _PARTS)
        places = (np.arange(_PARTS) + 0.5) * _TOKENS / _PARTS
        trial.curves.append(
            Curve(name, "tokens read", "loss, nats", tuple(zip(places, losses, strict=True)))
        )
        quarter = losses[_PARTS // 4 : _PARTS // 2].mean()
        figures[f"last_fall_{name}"] = float(quarter - losses[_PARTS // 2 :].mean())
        figures[f"exponent_{name}"] = power_law(places, losses)
        trial.say(f"{name}: {losses[0]:.3f} nats at first, {losses[-1]:.3f} at last")
    return figures


def power_law(places: NDArray[np.float64], losses: NDArray[np.float64]) -> float:
    """Fit loss = (scale / place) ** exponent + floor, and give the exponent.

    The floor is the one of a hundred below the least loss with which the logarithms lie best on a
    line.

    >>> places = np.array([10.0, 20.0, 40.0, 80.0])
    >>> round(power_law(places, 3 * places**-0.5 + 1), 1)
    0.5
    """
    best = (np.inf, 0.0)
    for floor in np.linspace(0, losses.min(), 100, endpoint=False):
        line, rest, *_ = np.polyfit(np.log(places), np.log(losses - floor), 1, full=True)
        share = float(rest[0]) / float(np.var(np.log(losses - floor)))
        best = min(best, (share, -float(line[0])))
    return best[1]


def _short(decoder: "TorchDecoder", seed: int) -> dict[str, float]:
    """Compare losses of texts as short as the base's."""
    texts = held_out_texts(seed, 128, SIZES["max_position_embeddings"] - 1)
    before = text_loss(long_context_base(lambda _: None), texts)
    return {"short_change": 100.0 * (text_loss(decoder, texts) / before - 1.0)}


# --- from scratch ------------------------------------------------------------------------------


def _scratch(trial: Trial, raised: "TorchDecoder") -> dict[str, float]:
    """Compare with a decoder that saw nothing but long sequences."""
    share = _continued_operations() / (_scratch_steps() * _step_operations())
    ours, theirs = _long_loss(raised, trial.seed), _long_loss(_from_scratch(trial), trial.seed)
    trial.say(f"{ours:.4f} nats; from scratch {theirs:.4f}, in {1 / share:.2f} x the operations")
    return {
        "operations_saved": 100.0 * (1.0 - share) if ours <= theirs else 0.0,
        "loss_raised": ours,
        "loss_scratch": theirs,
    }


def _step_operations() -> float:
    return _TUNING.batch_tokens * forward_operations(_TOKENS)


def _continued_operations() -> float:
    return base_operations() + _TUNING.steps * _step_operations()


def _scratch_steps() -> int:
    return round(_MORE * _continued_operations() / _step_operations())


def _long_loss(decoder: "TorchDecoder", seed: int) -> float:
    """Give the mean loss of all that is learned in long sequences, held out, in nats."""
    from yearling.systems.tiny_bases import token_losses

    random = np.random.default_rng([19, seed])
    rows = rows_of((_long_sample(random, _TOKENS) for _ in range(32)), has_text=True)
    return token_losses(decoder, rows).mean().item()


def _from_scratch(trial: Trial) -> "TorchDecoder":
    """Give the decoder that all seeds are compared with."""
    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder

    steps = _scratch_steps()
    training = Training(steps, _SCRATCH_LR, schedule="wsd")

    def draw(step: int) -> "Rows":
        random = np.random.default_rng([17, step])
        count = _TUNING.batch_tokens // _TOKENS
        return lesson(random, step / steps, _TOKENS, count, later=_long_sample)

    def train() -> "TorchDecoder":
        decoder = decoder_of(_SCRATCH_SIZES, 0)
        initialise(decoder, seed=0, std=STD)
        fit(decoder, draw, training, trial.say)
        return decoder

    settings = {
        "sizes": _SCRATCH_SIZES,
        "training": vars(training),
        "modules": ["systems.long_context_base"],
        "text": [_TOKENS, _SUCCESSORS],
    }
    return kept_decoder("long-from-scratch", settings, train, trial.say)


system = systems.register(
    System(
        slug="llama-2-long",
        claim="Raising the base of the rotary positions and going on with long sequences extends a "
        "model's context effectively, cheaper than long sequences from the start.",
        published=Published(
            "a 70B chat model above gpt-3.5-turbo-16k on long tasks; about 40 % of the operations "
            "saved; FIRST-SENTENCE retrieval above position interpolation",
            "Xiong et al. 2023, arXiv:2309.16039, abstract and section 4",
        ),
        honesty="The paper goes from 4,096 to 32,768 tokens, over 400 billion tokens of text. Here "
        "a decoder of 0.1 million weights goes from 128 to 1,024, and documents are drawn ids; "
        "their chain is the document's own, so that there is something to learn all along. Base "
        "and decoder from scratch are shared by all seeds. No chat model is made, and no data mix "
        "is compared.",
        parts=(
            "evaluation.long_context",
            "models.families.llama",
            "models.torch_decoder",
            "training.context",
            "training.loop",
            "training.objective",
            "training.optimizers.adamw",
        ),
        checks=(
            Check(
                "first_sentence_gain",
                "points",
                "First sentences named after 1,024 tokens: raised base less interpolated.",
                at_least=5.0,
            ),
            Check(
                "last_fall_raised",
                "nats",
                "Loss of a document's tokens 257 to 512 less that of tokens 513 to 1,024.",
                at_least=0.005,
                is_worst_judged=True,
            ),
            Check(
                "exponent_raised",
                "",
                "Exponent of the power law fitted to the loss along a document.",
                at_least=0.1,
                is_worst_judged=True,
            ),
            Check(
                "short_change",
                "%",
                "Loss of documents of 128 tokens over that of the base, less one.",
                at_most=1.0,
            ),
            Check(
                "operations_saved",
                "%",
                "Operations of base and tuning together against those from scratch, where the "
                "loss is no higher; 0 where it is.",
                at_least=30.0,
                is_worst_judged=True,
            ),
        ),
        run=_run,
        ablation=Ablation("the rotary base as it was", breaks=("first_sentence_gain",)),
        paper={
            "model": "llama-2-7b",
            "method": "pretrain",
            "context": {"tokens": 32_768, "method": "base", "base": 500_000},
            "optimizer": {"name": "adamw", "lr": 2e-5},
            "schedule": {"name": "cosine", "warmup": 2_000},
            "steps": 100_000,
            "tokens": 400_000_000_000,
        },
    ),
    __name__,
)
