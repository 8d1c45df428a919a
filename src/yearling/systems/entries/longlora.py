"""LongLoRA: longer contexts by attention in shifted groups and a low-rank update, cheaply.

One decoder that finds things in 128 tokens, its positions divided by YaRN, is tuned on sequences
of 1,024: in full with full attention; by LongLoRA; by LoRA alone in the same groups; and
by LongLoRA in groups that are not shifted. All of them are tested with full attention. What groups
save is counted and timed at 2,048 tokens.

Source: Chen et al. 2023, arXiv:2309.12307.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

import numpy as np

from yearling.evaluation.long_context import Sample, document, passkey
from yearling.systems.long_context_base import (
    SIZES,
    VOCABULARY,
    asked_lines,
    repeated_facts,
    rows_of,
    stretched_base,
)
from yearling.systems.longer_contexts import found
from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["step_seconds", "system"]

_TOKENS = 1_024
_GROUP = _TOKENS // 4
_PASSKEY_TOKENS = _GROUP // 2
_PASSKEYS = 0.6  # of questions within a group
_STEPS, _FULL_LR, _ADAPTER_LR = 200, 1e-3, 3e-3
_HELD_OUT = 60
_WHOLE = ("embeddings", "norms")

_TIMED_TOKENS = 2_048
_TIMED_STEPS = 5


@dataclass(frozen=True)
class _Adapter:
    """What an arm tunes, and in which groups.

    Attributes:
        trained_whole: Layers trained beside the low-rank update.
        is_shifted: Whether half of the heads' groups begin half a group later.
        group_tokens: Of each group; the whole sequence is full attention.
    """

    trained_whole: tuple[str, ...] = _WHOLE
    is_shifted: bool = True
    group_tokens: int = _GROUP


_LORA_ALONE = _Adapter(trained_whole=())
_UNSHIFTED = _Adapter(is_shifted=False)


def _run(trial: Trial) -> Mapping[str, float]:
    full = _loss(_tuned(trial, "full", None), trial.seed)
    if trial.is_ablated:
        arm = _tuned(trial, "neither", _Adapter(trained_whole=(), is_shifted=False))
        return {
            "perplexity_gap": _percent(_loss(arm, trial.seed) - full),
            "passkey": found(arm, "passkey", _TOKENS, trial.seed),
        }
    ours = _tuned(trial, "longlora", _Adapter())
    gaps = {
        "longlora": _loss(ours, trial.seed) - full,
        "lora": _loss(_tuned(trial, "lora alone", _LORA_ALONE), trial.seed) - full,
        "unshifted": _loss(_tuned(trial, "not shifted", _UNSHIFTED), trial.seed) - full,
    }
    trial.say(", ".join(f"{name} {gap:+.4f} nats" for name, gap in gaps.items()))
    return {
        "perplexity_gap": _percent(gaps["longlora"]),
        "lora_gap": _percent(gaps["lora"]),
        "lora_gap_less_twice": _percent(gaps["lora"]) - 2.0 * _percent(gaps["longlora"]),
        "unshifted_over": _percent(gaps["unshifted"] - gaps["longlora"]),
        "passkey": found(ours, "passkey", _TOKENS, trial.seed),
        "loss_full": full,
        **_costs(trial),
    }


def _percent(difference: float) -> float:
    """Give how much higher one perplexity is, from the difference of losses in nats."""
    return 100.0 * math.expm1(difference)


def _tuned(trial: Trial, name: str, adapter: _Adapter | None) -> "TorchDecoder":
    from yearling.systems.tiny_bases import Training, fit

    decoder = _stretched(trial.say)
    if adapter is not None:
        _attach(decoder, adapter, trial.seed)
    lr = _FULL_LR if adapter is None else _ADAPTER_LR
    training = Training(_STEPS, lr, seed=trial.seed)
    seconds = fit(decoder, lambda step: _row(np.random.default_rng([trial.seed, step])), training)
    trial.say(f"{name}: {_STEPS} steps in {seconds:.1f} s")
    return decoder


def _stretched(say: Callable[[str], None], tokens: int = _TOKENS) -> "TorchDecoder":
    from yearling.training.context import ContextConfig

    return stretched_base(ContextConfig(tokens=tokens, method="yarn"), say)


def _attach(decoder: "TorchDecoder", adapter: _Adapter, seed: int) -> None:
    from yearling.training.adapters import adapters

    kind = adapters.get("longlora")
    config = kind.config(
        group_tokens=adapter.group_tokens,
        is_shifted=adapter.is_shifted,
        trained_whole=adapter.trained_whole,
    )
    kind.attach(decoder, config, seed)


def _loss(decoder: "TorchDecoder", seed: int) -> float:
    """Give the mean loss of what is learned in sequences held out, full attention, in nats."""
    import torch

    from yearling.systems.tiny_bases import token_losses

    rows = (_row(np.random.default_rng([23, seed, number])) for number in range(_HELD_OUT))
    return torch.cat([token_losses(decoder, row) for row in rows]).mean().item()


# --- samples -----------------------------------------------------------------------------------


def _row(random: np.random.Generator) -> "Rows":
    """Draw a sequence of which nearly all that is learned lies at most half a group back.

    So far back some heads see in shifted groups wherever they are, and none behind the beginning
    of a group that is not shifted. A seventh is questions within a group, which every arm sees:
    passkeys are to be found with full attention behind all that the arm never looked past.
    """
    kind = random.random()
    if kind < 0.4:
        return rows_of([_repeated(random)], has_text=False)
    if kind < 0.55:
        return rows_of([_late_passkey(random)], has_text=False)
    if kind < 0.7:
        return rows_of([_questions(random)], has_text=False)
    if kind < 0.85:
        return rows_of([_text(random, _TOKENS)], has_text=True)
    return rows_of([repeated_facts(random, _TOKENS, int(random.integers(2, 20)))], has_text=False)


def _repeated(random: np.random.Generator) -> Sample:
    """Draw ids that come again after a quarter to half of a group."""
    period = int(random.integers(_GROUP // 4, _GROUP // 2))
    ids = random.integers(VOCABULARY.fillers.start, VOCABULARY.size, period)
    tokens = np.resize(ids, _TOKENS)
    tokens[0] = VOCABULARY.begin
    return Sample(tokens, np.arange(_TOKENS) > period)


def _late_passkey(random: np.random.Generator) -> Sample:
    """Draw a document, and another behind it that holds a passkey."""
    found_in = passkey(random, _PASSKEY_TOKENS, VOCABULARY)
    before = _text(random, _TOKENS - _PASSKEY_TOKENS)
    return Sample(
        np.append(before.tokens, found_in.tokens),
        np.append(before.is_answer, found_in.is_answer),
    )


def _questions(random: np.random.Generator) -> Sample:
    """Draw a document for each group, with a passkey or lines to find in it."""
    parts = [
        passkey(random, _GROUP, VOCABULARY)
        if random.random() < _PASSKEYS
        else asked_lines(random, _GROUP)
        for _ in range(_TOKENS // _GROUP)
    ]
    return Sample(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate([part.is_answer for part in parts]),
    )


def _text(random: np.random.Generator, length: int) -> Sample:
    text = document(random, length - 1, VOCABULARY)
    return Sample(np.append(VOCABULARY.begin, text), np.zeros(length, bool))


# --- what groups save --------------------------------------------------------------------------


def _costs(trial: Trial) -> dict[str, float]:
    from yearling.training.adapters.longlora import attended_fraction

    groups, full = _Adapter(group_tokens=_TIMED_TOKENS // 4), _Adapter(group_tokens=_TIMED_TOKENS)
    seconds = [step_seconds(trial.seed, groups, full) for _ in range(_TIMED_STEPS)]
    ratio = median(ours / theirs for ours, theirs in seconds)
    trial.say(f"a step of {_TIMED_TOKENS} tokens: {ratio:.2f} of the time of full attention")
    return {
        "attention_share": attended_fraction(_TIMED_TOKENS, _TIMED_TOKENS // 4),
        "step_share": ratio,
    }


def step_seconds(seed: int, *arms: _Adapter) -> tuple[float, ...]:
    """Time one step of each arm, forward and back, in processor seconds."""
    import torch

    from yearling.models.torch_decoder import Segments, labelled_losses

    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(SIZES["vocab_size"], (_TIMED_TOKENS,), generator=generator)
    found = []
    for arm in arms:
        decoder = _stretched(lambda _: None, _TIMED_TOKENS)
        _attach(decoder, arm, seed)
        decoder.train()
        started = process_time()
        hidden = decoder(tokens, Segments([_TIMED_TOKENS]))
        labelled_losses(decoder, hidden, tokens, rows_at_once=4_096).sum().backward()  # type: ignore[no-untyped-call]
        found.append(process_time() - started)
    return tuple(found)


system = systems.register(
    System(
        slug="longlora",
        claim="Extends a model's context at little cost: attention in shifted groups while it "
        "trains, and a low-rank update with embeddings and norms trained beside it.",
        published=Published(
            "LLaMA 2 7B to 100,000 tokens, 13B to 64,000 and 70B to 32,000 on one node of 8 A100",
            "Chen et al. 2023, arXiv:2309.12307, abstract",
        ),
        honesty="Here a decoder of 0.1 million weights goes from 128 to 1,024 tokens of drawn ids, "
        "with one base for all seeds. Positions are divided by frequency (YaRN), where the paper "
        "divides all of them alike: so divided, so small a decoder finds nothing again in as many "
        "steps; and on Giraffe's truncated basis LongLoRA is as near to full tuning, but finds "
        "62 % of the passkeys. Full tuning goes on to gain after 200 steps, and the gap with it. "
        "Most of what it is tuned and judged on is drawn to follow from at most 128 tokens "
        "back, half a group, since two layers carry nothing from group to group; this favours "
        "groups that are shifted. Its attention is a larger part of its work than LLaMA's at "
        "the same length, so time saved at 2,048 tokens is what LLaMA saves at longer ones. The "
        "shifted heads' groups at both ends attend by themselves, where the published code joins "
        "them.",
        parts=(
            "evaluation.long_context",
            "models.families.llama",
            "models.torch_decoder",
            "training.adapters.longlora",
            "training.context",
            "training.loop",
            "training.objective",
            "training.optimizers.adamw",
        ),
        checks=(
            Check(
                "perplexity_gap",
                "%",
                "Perplexity of LongLoRA over that of full tuning with full attention, less one.",
                at_most=3.0,
            ),
            Check(
                "lora_gap_less_twice",
                "%",
                "The same of LoRA alone, less twice LongLoRA's.",
                at_least=0.0,
            ),
            Check(
                "unshifted_over",
                "%",
                "Perplexity with groups that are not shifted over that with shifted, less one.",
                at_least=5.0,
            ),
            Check(
                "passkey",
                "%",
                "Passkeys found in 1,024 tokens with full attention.",
                at_least=90.0,
            ),
            Check(
                "attention_share",
                "x",
                "Pairs of tokens attended at 2,048, of those of full attention.",
                at_most=0.35,
            ),
            Check(
                "step_share",
                "x",
                "Processor time of a step at 2,048 tokens, of that with full attention.",
                at_most=0.7,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "groups not shifted, embeddings and norms frozen", breaks=("perplexity_gap",)
        ),
        paper={
            "model": "llama-2-7b",
            "context": {"tokens": 100_000, "method": "linear"},
            "adapter": {"name": "longlora", "r": 8, "alpha": 16},
            "optimizer": {"name": "adamw", "lr": 2e-5},
            "schedule": {"name": "constant", "warmup": 20},
            "batch": 64,
            "steps": 1_000,
        },
    ),
    __name__,
)
