"""MathGLM: arithmetic step by step, on expressions that nobody trained on.

A small decoder learns expressions of up to four operators: one arm writes every step, the other
only the result, from the same first weights with as many tokens. Expressions held out for the test
differ from all trained ones in any order of their numbers. Answers come from the serving engine.

Source: Yang et al. 2023, arXiv:2309.03241.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

from yearling.systems.arithmetic import Expressions, steps_of
from yearling.systems.arithmetic_base import (
    ALPHABET,
    BASE,
    LONGEST,
    SIZES,
    Stage,
    Writing,
    arithmetic_base,
    codes_of,
    expressions_of,
    question_of,
    train_stage,
    value_of,
)
from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder

__all__ = ["close_share", "exact_share", "system"]

_WHOLE = Expressions()
_SINGLE = Expressions(3, 1, 1, operators="+-*")
_NUM_TESTS = 200
_CLOSE = 0.01  # of the true value, as the paper's relative error allows


def _run(trial: Trial) -> Mapping[str, float]:
    tests = _tests(trial.seed, _WHOLE)
    result = _scores(trial, "result", tests)
    if trial.is_ablated:
        return {"exact": result["exact"], "gain": 0.0}
    steps = _scores(trial, "steps", tests)
    return {
        "exact": steps["exact"],
        "gain": steps["exact"] - result["exact"],
        "overlap": float(_overlap(trial.seed, tests)),
        "close": steps["close"],
        "single": steps["single"],
        "single_result_only": result["single"],
        "exact_result_only": result["exact"],
        "close_result_only": result["close"],
        "smollm2_exact": _smollm2_exact(tests[:40]),
    }


def _last(seed: int) -> Stage:
    """Give the stretch of training that differs between seeds."""
    return Stage(100, 3e-4, "cosine", 1_000_003 * (seed + 11))


def _tests(seed: int, kinds: Expressions) -> list[str]:
    random = Random(3_000_017 + seed)
    return [kinds.draw(random, is_test=True) for _ in range(_NUM_TESTS)]


def _overlap(seed: int, tests: Sequence[str]) -> int:
    """Draw all that both arms were trained on once more, and count the tests among it."""
    trained = _trained_orders(BASE) | _trained_orders(_last(seed))
    return sum(_in_any_order(test) in trained for test in tests)


@cache
def _trained_orders(stage: Stage) -> frozenset[tuple[str, ...]]:
    writings: tuple[Writing, ...] = ("steps", "result")
    return frozenset(
        _in_any_order(expression)
        for writing in writings
        for step in range(stage.steps)
        for expression in expressions_of(stage, step, writing)
    )


def _in_any_order(expression: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\d+|[-+*]", expression)))


# --- answers -----------------------------------------------------------------------------------


def exact_share(values: Sequence[int | None], expressions: Sequence[str]) -> float:
    """Give the share of values that are their expression's, in %; None is none.

    >>> exact_share([7, None], ["1+3+3", "2+5"])
    50.0
    """
    pairs = zip(values, expressions, strict=True)
    right = [value == int(steps_of(expression)[-1]) for value, expression in pairs]
    return 100.0 * sum(right) / len(right)


def close_share(values: Sequence[int | None], expressions: Sequence[str]) -> float:
    """Give the share of values that lie within 1 % of their expression's, in %.

    >>> close_share([101, 102], ["50+50"] * 2)
    50.0
    """
    close = 0
    for value, expression in zip(values, expressions, strict=True):
        true = int(steps_of(expression)[-1])
        close += value is not None and abs(value - true) <= _CLOSE * abs(true)
    return 100.0 * close / len(values)


def _scores(trial: Trial, writing: Writing, tests: Sequence[str]) -> dict[str, float]:
    decoder = arithmetic_base(writing, trial.say)
    train_stage(decoder, _last(trial.seed), writing, trial.say)
    singles = _tests(trial.seed, _SINGLE)
    answers = _answers(decoder, [*tests, *singles], trial.folder / writing)
    values = [value_of(answer) for answer in answers]
    values, single_values = values[: len(tests)], values[len(tests) :]
    exact = exact_share(values, tests)
    trial.say(f"{writing}: {exact:.1f} % exact; {question_of(tests[0])}{answers[0].rstrip()}")
    return {
        "exact": exact,
        "close": close_share(values, tests),
        "single": exact_share(single_values, singles),
    }


def _answers(decoder: "TorchDecoder", tests: Sequence[str], folder: Path) -> list[str]:
    """Let the serving engine go on from every expression, up to the line's end."""
    from yearling import LLM, SamplingParams
    from yearling.systems.tiny_bases import save_folder

    save_folder(decoder, SIZES, folder)
    prompts = [codes_of(f"\n{question_of(test)}") for test in tests]
    params = SamplingParams(
        max_tokens=LONGEST - max(map(len, prompts)),
        temperature=0.0,
        stop_token_ids=codes_of("\n"),
    )
    with LLM(folder, weights="float32") as llm:
        results = llm.generate(prompts, params)
    return ["".join(ALPHABET[token] for token in result.tokens) for result in results]


def _smollm2_exact(tests: Sequence[str]) -> float:
    """Ask a general model of 135 million weights for the results."""
    from yearling import LLM, SamplingParams

    params = SamplingParams(max_tokens=12, temperature=0.0)
    with LLM("smollm2") as llm:
        answers = [
            llm.chat(
                [{"role": "user", "content": f"{test} = ? Answer with the number alone."}], params
            ).text
            for test in tests
        ]
    return exact_share([_plain_value(answer) for answer in answers], tests)


def _plain_value(answer: str) -> int | None:
    last = answer.split("=")[-1].strip(" .\n")
    return int(last) if re.fullmatch(r"-?\d+", last) else None


system = systems.register(
    System(
        slug="mathglm",
        claim="A language model computes multi-digit arithmetic with brackets almost perfectly, "
        "without a calculator, because it learned to write every step.",
        published=Published(
            "93.03 % exact and 99.71 % within 1 % on 9,592 expressions, with 2 billion weights; "
            "61.21 % exact with 10 million; GPT-4 18.84 %",
            "Yang et al. 2023, arXiv:2309.03241, tables 2 and 4",
        ),
        honesty="Here the decoder has 0.7 million weights, and expressions two to four operators "
        "of +, - and x over whole numbers of one to three digits, products by one digit; no "
        "division, powers, decimals or fractions, and no word problems. Unlike in the paper, every "
        "number is written with four digits, the lowest first, and has fixed places for its sign "
        "and bracket. There is no curriculum: a fifth of the steps holds single operations. Each "
        "way of writing has one training for all seeds, from the same first weights; a seed draws "
        "the last hundred steps and the test. The arm that writes results alone does not even "
        "learn single operations (single_result_only), so the gain is more than steps are worth to "
        "a decoder that knows them. What is almost perfect in the paper is the share within 1 %.",
        parts=(
            "models.families.llama",
            "models.torch_decoder",
            "serving.llm",
            "systems.arithmetic_base",
            "systems.tiny_bases",
            "training.loop",
            "training.objective",
            "training.optimizers.adamw",
        ),
        checks=(
            Check(
                "exact", "%", "Held-out expressions whose last step is the value.", at_least=90.0
            ),
            Check(
                "gain",
                "points",
                "The same, less that of writing the result alone, after as many tokens.",
                at_least=20.0,
            ),
            Check(
                "overlap",
                "expressions",
                "Tested ones that were trained with their numbers and signs in some order.",
                at_most=0.0,
                is_worst_judged=True,
            ),
        ),
        run=_run,
        ablation=Ablation("no steps: the result alone", breaks=("exact", "gain")),
        paper={
            "architecture": "gpt",
            "layers": 40,
            "hidden": 2_048,
            "heads": 32,
            "expressions": 50_000_000,
            "curriculum": "numbers of up to 5 digits first, then longer",
        },
    ),
    __name__,
)
