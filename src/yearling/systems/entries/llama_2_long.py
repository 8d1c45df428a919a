"""Llama 2 Long: a raised rotary base and continued pretraining on long sequences.

One decoder that finds things in 128 tokens goes on at 1,024, with short sequences among the long
ones: with its rotary base raised from 10,000 to 500,000, with positions divided by eight, and as
it is, over the same samples. How the loss falls along a document says whether all of the context
is used. Another decoder sees nothing but long sequences from its first step, and takes half as
many operations again.

Source: Xiong et al. 2023, arXiv:2309.16039.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from yearling.evaluation.long_context import Sample, document, first_sentence, loss_by_position
from yearling.systems.long_context_base import (
    SIZES,
    STD,
    TRAINED_TOKENS,
    VOCABULARY,
    base_operations,
    forward_operations,
    lesson,
    logits_of,
    long_context_base,
    rows_of,
    stretched_base,
    text_loss,
    tuning_sample,
)
from yearling.systems.longer_contexts import found, held_out_texts
from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["power_law", "system"]

_TOKENS = 1_024
_STEPS, _LR, _STEP_TOKENS = 400, 2e-3, 2_048
_SUCCESSORS = 8  # a chain of so many is still being learned after a thousand tokens
_LONG_LEARNED = 0.1  # share of such documents among long samples
_PARTS = 64
_SCRATCH_SIZES = {**SIZES, "max_position_embeddings": _TOKENS, "rope_theta": 500_000.0}
_SCRATCH_LR = 3e-3
_MORE = 1.5  # operations from scratch over those of base and tuning
_ARMS: Mapping[str, str | None] = {"raised": "base", "interpolated": "linear", "same": None}


# --- samples -----------------------------------------------------------------------------------


def _rows(seed: int, step: int) -> "Rows":
    """Draw a step: long samples, first sentences, short samples and short documents in turn."""
    random = np.random.default_rng([seed, step])
    match step % 4:
        case 0:
            return rows_of((_long_sample(random, _TOKENS) for _ in _each(_TOKENS)), has_text=True)
        case 1:
            return _first_sentences(random)
        case 2:
            short = (tuning_sample(random, TRAINED_TOKENS) for _ in _each(TRAINED_TOKENS))
            return rows_of(short, has_text=True)
        case _:
            texts = (_text(random, TRAINED_TOKENS, 2) for _ in _each(TRAINED_TOKENS))
            return rows_of(texts, has_text=True)


def _each(length: int) -> range:
    """Count the sequences of a step."""
    return range(_STEP_TOKENS // length)


def _long_sample(random: np.random.Generator, length: int) -> Sample:
    """Draw a document that takes long to learn, or, more often, what the base has learned."""
    if random.random() >= _LONG_LEARNED:
        return tuning_sample(random, length)
    return _text(random, length, _SUCCESSORS)


def _text(random: np.random.Generator, length: int, num_successors: int) -> Sample:
    text = document(random, length - 1, VOCABULARY, num_successors)
    return Sample(np.append(VOCABULARY.begin, text), np.zeros(length, bool))


def _first_sentences(random: np.random.Generator) -> "Rows":
    """Draw documents of 32 to 1,024 tokens, where nothing but the answer bears loss.

    Always as long, the answer would lie at one distance, which is learned in its place; and four
    answers among a thousand tokens of text weigh nothing.
    """
    length = int(2 ** random.uniform(5, np.log2(_TOKENS)))
    drawn = (first_sentence(random, length, VOCABULARY) for _ in _each(length))
    return rows_of(drawn, has_text=False)


# --- tuning ------------------------------------------------------------------------------------


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
    from yearling.systems.tiny_bases import Training, fit

    decoder = _begun(trial, _ARMS[arm])
    training = Training(_STEPS, _LR, seed=trial.seed)
    seconds = fit(decoder, lambda step: _rows(trial.seed, step), training)
    trial.say(f"{arm}: {_STEPS} steps in {seconds:.1f} s")
    return decoder


def _begun(trial: Trial, method: str | None) -> "TorchDecoder":
    from yearling.training.context import ContextConfig

    if method is None:
        return long_context_base(trial.say)
    context = ContextConfig.model_validate({"tokens": _TOKENS, "method": method})
    return stretched_base(context, trial.say)


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


def _step_operations(length: int = _TOKENS) -> float:
    return _STEP_TOKENS * forward_operations(length)


def _continued_operations() -> float:
    """Give the operations of base and tuning; first sentences count as if all were longest."""
    long, short = _step_operations(), _step_operations(TRAINED_TOKENS)
    return base_operations() + _STEPS / 2 * (long + short)


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
        return lesson(random, step / steps, _TOKENS, len(_each(_TOKENS)), later=_long_sample)

    def train() -> "TorchDecoder":
        decoder = decoder_of(_SCRATCH_SIZES, 0)
        initialise(decoder, seed=0, std=STD)
        fit(decoder, draw, training, trial.say)
        return decoder

    settings = {
        "sizes": _SCRATCH_SIZES,
        "training": vars(training),
        "modules": ["systems.long_context_base"],
        "text": [_TOKENS, _SUCCESSORS, _LONG_LEARNED],
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
        "their chain is the document's own, so that there is something to learn all along. Half of "
        "the steps are of 128 tokens, and a quarter ask for first sentences after 32 to 1,024 "
        "tokens, where only the answers bear loss: without the former short texts suffer, and "
        "without the latter no arm names a first sentence; all arms are tuned alike. From scratch, "
        "long sequences alone teach next to nothing in these operations, so what is saved is a "
        "lower bound by the operations allowed, not the point where both are equal. Base and "
        "decoder from scratch are shared by all seeds. No chat model is made, and no data mix is "
        "compared.",
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
