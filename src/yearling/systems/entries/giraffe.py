"""Giraffe: longer contexts by other rotary frequencies and a little tuning.

One decoder that finds things in 128 tokens is tuned alike, on no longer sequences, with positions
as they are, divided by four, on the power basis, and on the truncated basis, which leaves fast
frequencies alone and flattens those that never made a turn in training. Then lines are looked for
in up to 1,024 tokens. One more decoder on the truncated basis is tuned on in longer and longer
sequences, and looks for a passkey in 32,768.

Source: Pal et al. 2023, arXiv:2308.10882.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from yearling.evaluation.long_context import Sample, accuracy, passkey
from yearling.systems.long_context_base import (
    SIZES,
    VOCABULARY,
    asked_lines,
    logits_of,
    rows_of,
    stretched_base,
)
from yearling.systems.longer_contexts import Tuning, found, held_out_texts, tune, tuned_base
from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder

__all__ = ["longest_turn", "system"]

_STRETCHED = 512  # four times the base's
_TUNED = 128  # tuned at 256, positions as they are find 72 % of the lines in 512 tokens as well
_STEPS, _LR = 300, 1e-3
_ARMS: Mapping[str, str | None] = {
    "unscaled": None,
    "linear": "linear",
    "power": "power",
    "truncated": "truncated",
}
_LENGTHS = (128, 256, 384, 512, 768, 1_024)
_LONGEST = 32_768
_NEEDLES = 3  # a seed
_PASSKEYS = 0.6  # of the samples in which the reader of 32,768 tokens is tuned
_READER = Tuning(_TUNED, _STEPS, _LR)
_STAGES = (  # tokens of a sequence, steps, learning rate, tokens of a step
    (512, 100, 2e-3, 2_048),
    (1_024, 100, 2e-3, 2_048),
    (2_048, 500, 3e-3, 4_096),
    (8_192, 120, 3e-3, 8_192),
    (16_384, 120, 2e-3, 16_384),
)


def _run(trial: Trial) -> Mapping[str, float]:
    if trial.is_ablated:
        lines = found(_tuned(trial, "unscaled"), "lines", _STRETCHED, trial.seed)
        return {"lines_truncated": lines, "lines_linear": lines, "gain": 0.0}
    decoders = {name: _tuned(trial, name) for name in _ARMS}
    figures: dict[str, float] = {}
    for name, decoder in decoders.items():
        figures |= _scores(trial, name, decoder)
    truncated = decoders["truncated"]
    return {
        **figures,
        "gain": figures["lines_truncated"] - figures["lines_unscaled"],
        "closed_book": found(truncated, "closed_book", _STRETCHED, trial.seed),
        **_at_32k(_long_reader(trial), trial.seed),
        "turn_tokens": longest_turn(),
    }


def _tuned(trial: Trial, arm: str) -> "TorchDecoder":
    return tuned_base(trial, arm, _ARMS[arm], _STRETCHED, Tuning(_TUNED, _STEPS, _LR))


def _scores(trial: Trial, arm: str, decoder: "TorchDecoder") -> dict[str, float]:
    """Lines found and loss of text at each length, the two things the authors rank by."""
    from yearling.systems.long_context_base import text_loss

    lines = [found(decoder, "lines", length, trial.seed) for length in _LENGTHS]
    losses = [text_loss(decoder, held_out_texts(trial.seed, 16, length)) for length in _LENGTHS]
    trial.curves.append(
        Curve(arm, "tokens", "lines found, %", tuple(zip(_LENGTHS, lines, strict=True)))
    )
    trial.curves.append(
        Curve(arm, "tokens", "loss of text, nats", tuple(zip(_LENGTHS, losses, strict=True)))
    )
    at = _LENGTHS.index(_STRETCHED)
    answers = found(decoder, "altered_numbers", _STRETCHED, trial.seed)
    trial.say(f"{arm}: {lines[at]:.1f} % of lines, {losses[at]:.4f} nats, {answers:.1f} % altered")
    return {f"lines_{arm}": lines[at], f"loss_{arm}": losses[at], f"altered_{arm}": answers}


def _at_32k(decoder: "TorchDecoder", seed: int) -> dict[str, float]:
    """Read 32,768 tokens at once, some times."""
    random = np.random.default_rng([seed, _LONGEST])
    samples = [passkey(random, _LONGEST, VOCABULARY) for _ in range(_NEEDLES)]
    logits = [logits_of(decoder)(sample.tokens) for sample in samples]
    read = iter(logits)
    return {
        "finite_32k": 100.0 * float(np.mean([np.isfinite(each).all() for each in logits])),
        "needle_32k": accuracy(lambda _: next(read), samples),
    }


def _long_reader(trial: Trial) -> "TorchDecoder":
    """Give the truncated arm after more tuning, on answers alone, in up to 16,384 tokens.

    Behind text so much longer than any it has read, a head must look far more sharply than before:
    the share of one key among 32,768 falls by 256. All seeds test one decoder.
    """
    from yearling.systems.tiny_bases import Training, fit, kept_decoder
    from yearling.training.context import ContextConfig

    context = ContextConfig(tokens=_STRETCHED, method="truncated")

    def train() -> "TorchDecoder":
        decoder = stretched_base(context, trial.say)
        tune(decoder, _READER, 0)
        for tokens, steps, lr, batch_tokens in _STAGES:

            def draw(step: int, tokens: int = tokens, count: int = batch_tokens // tokens) -> Any:
                random = np.random.default_rng([0, tokens, step])
                samples = (_long_sample(random, tokens) for _ in range(count))
                return rows_of(samples, has_text=False)

            fit(decoder, draw, Training(steps, lr, seed=0), trial.say)
        return decoder

    settings = {
        "sizes": dict(SIZES),
        "reader": [_READER.tokens, _READER.steps, _READER.lr],
        "stages": _STAGES,
        "modules": ["systems.long_context_base", "systems.longer_contexts"],
    }
    kept = kept_decoder("giraffe-long", settings, train, trial.say)
    decoder = stretched_base(context, trial.say)
    decoder.load_state_dict(kept.state_dict())
    return decoder


def _long_sample(random: np.random.Generator, tokens: int) -> Sample:
    if random.random() < _PASSKEYS:
        return passkey(random, tokens, VOCABULARY)
    return asked_lines(random, tokens)


def longest_turn() -> float:
    """Give the tokens in which LLaMA 2's slowest frequency that still turns comes round at 32K.

    As long as this is more than the context, no two distances look alike to it.

    >>> longest_turn()
    65536.0
    """
    from yearling.models.presets import find_preset
    from yearling.models.rotary import rotary_frequencies
    from yearling.models.spec import Attention, Rotary
    from yearling.training.context import ContextConfig, extend_context

    context = ContextConfig(tokens=_LONGEST, method="truncated")
    mixer = extend_context(find_preset("llama-2-13b").spec, context).layers[0].mixer
    assert isinstance(mixer, Attention)
    assert isinstance(mixer.positions, Rotary)
    frequencies, _ = rotary_frequencies(mixer.positions)
    return round(2 * math.pi / float(frequencies[frequencies > 0].min()), 1)


system = systems.register(
    System(
        slug="giraffe",
        claim="A truncated rotary basis and a little tuning let LLaMA 2 read 32,768 tokens.",
        published=Published(
            "altered-number questions at four times the length 72.8 / 70.2 / 65.8 % right at 2,048 "
            "/ 4,096 / 8,192 tokens, 29.8 / 28.3 / 24.0 % unscaled; 32K on LLaMA 2 13B",
            "Pal et al. 2023, arXiv:2308.10882, and the model card of Giraffe-v2-13b-32k",
        ),
        honesty="Here the decoder has 0.1 million weights, its contexts are 128 tokens before and "
        "512 after, and lines, facts and text are drawn ids. It is tuned at 128 tokens, the "
        "authors' models at twice their context: so small a decoder learns twice the length "
        "without any scaling. 32,768 tokens, 256 times the base's "
        "context, are read by a decoder that was tuned on for it, on passkeys and lines of up to "
        "16,384 tokens; of LLaMA 2 at that length only the frequencies are looked at. "
        "All seeds begin from one base. The authors "
        "rank methods differently by perplexity and by what is found; both are told for each arm, "
        "neither is checked.",
        parts=(
            "evaluation.long_context",
            "models.families.llama",
            "models.presets",
            "models.rotary",
            "models.torch_decoder",
            "training.context",
            "training.loop",
            "training.objective",
            "training.optimizers.adamw",
        ),
        checks=(
            Check(
                "lines_truncated",
                "%",
                "Lines found in 512 tokens after tuning at 128, truncated basis.",
                at_least=80.0,
            ),
            Check("lines_linear", "%", "The same, positions divided by four.", at_least=80.0),
            Check("lines_unscaled", "%", "The same, positions as they are.", at_most=20.0),
            Check(
                "gain",
                "points",
                "Truncated less unscaled; the distance of both limits.",
                at_least=60.0,
                is_worst_judged=True,
            ),
            Check(
                "closed_book",
                "%",
                "Altered numbers that the truncated arm names where the text does not state them.",
                at_most=5.0,
                is_worst_judged=True,
            ),
            Check(
                "finite_32k",
                "%",
                "Readings of 32,768 tokens whose logits are all finite.",
                at_least=100.0,
                is_worst_judged=True,
            ),
            Check(
                "needle_32k",
                "%",
                "Passkeys found in 32,768 tokens, truncated basis, tuned on in up to 16,384.",
                at_least=100.0,
            ),
            Check(
                "turn_tokens",
                "tokens",
                "LLaMA 2's longest turn on the truncated basis: more than the context.",
                at_least=32_768.0,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "the frequencies as they were", breaks=("lines_truncated", "lines_linear", "gain")
        ),
        paper={
            "model": "llama-2-13b",
            "data": "RedPajama, in pieces of 4,096 tokens",
            "context": {"tokens": 32_768, "method": "truncated"},
            "adapter": {"name": "lora"},
        },
    ),
    __name__,
)
