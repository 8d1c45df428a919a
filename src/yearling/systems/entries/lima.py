"""LIMA: few answers, well chosen and in one manner, bring out what a model knows already.

A small decoder has read all about made-up people in plain statements. It is then tuned on
questions with answers in several forms: few or many, curated, unselected, or all alike. People
nobody asked about, and forms that no row has shown, tell what tuning brought out. SmolLM2 itself
is tuned on forty rows of one manner, and asked about something that none of them is about.

Source: Zhou et al. 2023, arXiv:2305.11206.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from yearling.systems.made_up_people import (
    END,
    NUM_PEOPLE,
    SIZES,
    TOPICS,
    encoded,
    people_base,
    prompted_rows,
)
from yearling.systems.people_questions import (
    FORMS,
    NUM_ASKED,
    SEEN_FORMS,
    Item,
    Question,
    curated,
    has_form,
    prompt_of,
    right_answer,
    source_items,
)
from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems
from yearling.systems.taught_manner import teach_manner

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.serving.llm import GenerationResult
    from yearling.systems.tiny_bases import Rows

__all__ = ["epochs", "spread_dropout", "system"]

_SIZES_CURATED = (30, 100, 300, 1_000)
_NUM_NOISY = 10_000
_ALIKE = [form for form in SEEN_FORMS if not form.opening]

_STEPS, _BATCH, _LR, _DECAY = 600, 16, 1e-3, 0.1
_TOP_DROPOUT = 0.2  # the authors' for their smaller models
_TEMPERATURE, _TOP_P = 0.7, 0.9  # the authors'
_NUM_TESTS, _LIKE_DRAWN, _MAX_ANSWER = 400, 5, 14


def _run(trial: Trial) -> Mapping[str, float]:
    random = Random(trial.seed)
    by_size = {
        size: _tuned(trial, curated(size, random), f"{size:,} curated")
        for size in (_SIZES_CURATED[-1:] if trial.is_ablated else _SIZES_CURATED)
    }
    best = by_size[_SIZES_CURATED[-1]]
    figures = {"surfaced": best.surfaced, "unseen_form": best.unseen_form}
    if trial.is_ablated:
        return figures
    noisy = _tuned(trial, source_items(_NUM_NOISY, random), "10,000 as the source has them")
    alike = curated(_SIZES_CURATED[-1], random, _ALIKE)
    uniform = _tuned(trial, alike, "1,000 alike")
    right = {size: tuned.right for size, tuned in by_size.items()}
    trial.say("SmolLM2: tuned on forty rows, once for all seeds")
    manner = teach_manner()
    points = [(float(size), share) for size, share in right.items()]
    trial.curves.append(Curve("curated", "rows", "right answers, %", points))
    return {
        "curated_minus_noisy": best.right - noisy.right,
        "curated_minus_alike": best.right - uniform.right,
        **figures,
        "gain_falls": (right[100] - right[30]) - (right[1_000] - right[300]),
        "likeliest_minus_noisy": best.right_likeliest - noisy.right_likeliest,
        "noisy_right": noisy.right,
        "alike_right": uniform.right,
        **{f"right_{size}": share for size, share in right.items()},
        **manner,
    }


# --- tuning ------------------------------------------------------------------------------------


class _Tuned(NamedTuple):
    """What a tuned decoder answers about people nobody asked about in tuning, in %.

    Attributes:
        right: Right in fact and form, over all forms.
        surfaced: Right in fact and form, in forms that rows have shown.
        unseen_form: In the right form, whatever is said, where no row has shown the form.
        right_likeliest: As `right`, of the likeliest answers in place of drawn ones.
    """

    right: float
    surfaced: float
    unseen_form: float
    right_likeliest: float


def _tuned(trial: Trial, items: Sequence[Item], what: str) -> _Tuned:
    """Tune the base on rows, for as many steps whatever their number, and ask it."""
    from yearling.systems.tiny_bases import Training, fit

    decoder = people_base(trial.say, is_strange=trial.is_ablated)
    training = Training(_STEPS, _LR, schedule="linear", weight_decay=_DECAY, seed=trial.seed)
    handles = spread_dropout(decoder, _TOP_DROPOUT)
    seconds = fit(decoder, epochs(items, trial.seed), training)
    for handle in handles:
        handle.remove()
    tuned = _examined(trial, decoder, what)
    trial.say(
        f"{what}: {tuned.right:.1f} % right, {tuned.surfaced:.1f} % surfaced, "
        f"{tuned.unseen_form:.1f} % of unseen forms, {seconds:.1f} s"
    )
    return tuned


def epochs(items: Sequence[Item], seed: int) -> "Callable[[int], Rows]":
    """Draw the batch of a step: rows in a new order each epoch, epochs one after the other."""
    sequences = []
    for question, answer, has_end in items:
        prompt = prompt_of(question)
        sequences.append((len(prompt), [*prompt, *encoded(answer), *([END] if has_end else [])]))
    random, order = Random(seed), list[int]()
    while len(order) < _STEPS * _BATCH:
        order += random.sample(range(len(sequences)), len(sequences))

    def draw(step: int) -> "Rows":
        chosen = order[step * _BATCH : (step + 1) * _BATCH]
        return prompted_rows([sequences[number] for number in chosen])

    return draw


def spread_dropout(decoder: "TorchDecoder", top: float) -> list[Any]:
    """Drop parts of what each layer adds to the stream: none at the bottom, most at the top.

    Args:
        top: Share that the last layer drops while training.

    Returns:
        Handles of hooks; `remove` takes one away.
    """
    import torch.nn.functional as F

    def dropping(share: float) -> Callable[..., Any]:
        return lambda module, inputs, output: F.dropout(output, share, module.training)

    layers = list(decoder.iterate_layers())
    return [
        module.register_forward_hook(dropping(top * number / max(len(layers) - 1, 1)))
        for number, layer in enumerate(layers)
        for name, module in layer.named_modules()
        if name.endswith(("o_proj", "down_proj"))
    ]


# --- asking ------------------------------------------------------------------------------------


def _examined(trial: Trial, decoder: "TorchDecoder", what: str) -> _Tuned:
    """Ask about people that no row is about, in all forms, and judge the answers drawn."""
    from yearling import LLM, SamplingParams
    from yearling.systems.tiny_bases import save_folder

    people = range(NUM_ASKED, NUM_PEOPLE)
    every = [Question(*each) for each in product(people, TOPICS, FORMS)]
    questions = Random(7_000_003 + trial.seed).sample(every, _NUM_TESTS)
    prompts = [prompt_of(question) for question in questions]
    likeliest = SamplingParams(max_tokens=_MAX_ANSWER, temperature=0.0, stop_token_ids=[END])
    drawing = likeliest.model_copy(update={"temperature": _TEMPERATURE, "top_p": _TOP_P})
    folder = trial.folder / re.sub(r"\W+", "-", what)
    save_folder(decoder, SIZES, folder)
    drawn: list[GenerationResult] = []
    with LLM(folder, weights="float32") as llm:
        chosen = llm.generate(prompts, likeliest)
        for first in range(0, _NUM_TESTS, _LIKE_DRAWN):  # a call draws alike for all its prompts
            params = drawing.model_copy(update={"seed": _NUM_TESTS * trial.seed + first})
            drawn += llm.generate(prompts[first : first + _LIKE_DRAWN], params)
    right = _are_right(questions, drawn)
    is_shown = [question.form in SEEN_FORMS for question in questions]
    return _Tuned(
        right=_share(right),
        surfaced=_share([ok for ok, shown in zip(right, is_shown, strict=True) if shown]),
        unseen_form=_share(
            [
                has_form(question, answer.tokens)
                for question, answer, shown in zip(questions, drawn, is_shown, strict=True)
                if not shown
            ]
        ),
        right_likeliest=_share(_are_right(questions, chosen)),
    )


def _are_right(questions: Sequence[Question], answers: "Sequence[GenerationResult]") -> list[bool]:
    return [
        list(answer.tokens) == [*encoded(right_answer(question)), END]
        for question, answer in zip(questions, answers, strict=True)
    ]


def _share(found: Sequence[bool]) -> float:
    return 100.0 * sum(found) / len(found)


system = systems.register(
    System(
        slug="lima",
        claim="A thousand well-chosen examples and no reinforcement learning give a strong model "
        "that generalises beyond its training tasks.",
        published=Published(
            "equal or preferred to GPT-4's answer in 43 %, Bard's 58 %, DaVinci003's 65 % of 300 "
            "prompts; better than Alpaca 65B, which has 52 times the rows",
            "Zhou et al. 2023, arXiv:2305.11206, section 1",
        ),
        honesty="The paper tunes LLaMA 65B and asks people and GPT-4 which answer they prefer. "
        "Here a decoder of 0.4 million weights tells facts of a made-up world, rules judge them, "
        "and what is bad about 40 % of the source is made up too. Every set is trained for 600 "
        "steps of 16 rows, about one pass over the 10,000, so a larger set gets no more training; "
        "learning rate and rows of a step are the best for the 1,000 curated rows of those tried. "
        "Answers are drawn at the paper's temperature 0.7 and top-p 0.9; of the likeliest answers "
        "as many are right after either set (likeliest_minus_noisy), so what curating buys here "
        "is certainty. "
        "The rows that are all alike ask for no opening, so forms with one are new to them. "
        "Forms are learned in tuning alone: the base has read none of their words. SmolLM2 has "
        "been tuned to chat before, so its forty rows show a new manner and no first one; it is "
        "tuned once for all seeds, through LoRA and without dropout.",
        parts=(
            "models.families.llama",
            "models.torch_decoder",
            "serving.llm",
            "systems.tiny_bases",
            "training.adapters.lora",
            "training.loop",
            "training.merge",
            "training.methods.sft",
            "training.optimizers.adamw",
            "training.trainer",
        ),
        checks=(
            Check(
                "curated_minus_noisy",
                "points",
                "Right answers after 1,000 curated rows less those after 10,000 unselected ones.",
                at_least=5.0,
            ),
            Check(
                "curated_minus_alike",
                "points",
                "Right answers after 1,000 curated rows less those after 1,000 without openings.",
                at_least=3.0,
            ),
            Check(
                "surfaced",
                "%",
                "Facts of people that no row asks about, told in the form asked for; shown forms.",
                at_least=70.0,
            ),
            Check(
                "unseen_form",
                "%",
                "Answers in the form asked for, where no row has shown that form.",
                at_least=60.0,
            ),
            Check(
                "gain_falls",
                "points",
                "Gain from 30 to 100 curated rows less the gain from 300 to 1,000.",
                at_least=0.1,
            ),
            Check(
                "smollm2_surfaced",
                "%",
                "Capitals SmolLM2 knows that it tells in the manner of forty rows on other things.",
                at_least=70.0,
            ),
            Check(
                "smollm2_manner",
                "%",
                "Answers of SmolLM2 about capitals that are in that manner.",
                at_least=60.0,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "the base has read about other people alone", breaks=("surfaced",), num_seeds=1
        ),
        paper={
            "model": "llama-65b",
            "rows": 1_000,
            "epochs": 15,
            "batch_rows": 32,
            "max_length": 2_048,
            "optimizer": {"name": "adamw", "lr": 1e-5, "betas": [0.9, 0.95], "weight_decay": 0.1},
            "schedule": {"name": "linear", "warmup": 0, "end": 0.1},
            "residual_dropout": {"bottom": 0.0, "top": 0.3},
        },
    ),
    __name__,
)
