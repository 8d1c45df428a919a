"""MathGLM: arithmetic step by step, on expressions that nobody trained on.

A small decoder learns single operations, then expressions of several: one arm writes every step,
the other only the result, from the same base with as many tokens. Expressions held out for the test
differ from all trained ones in any order of their numbers. Answers come from the serving engine.

Source: Yang et al. 2023, arXiv:2309.03241.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from yearling.systems.arithmetic import Expressions, steps_of
from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["exact_share", "rows_of_texts", "system", "text_of"]

Writing = Literal["steps", "result"]

_ALPHABET = "\n=0123456789+-*()"
_CODES = {letter: code for code, letter in enumerate(_ALPHABET)}
_LENGTH = 160
_SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(_ALPHABET),
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": _LENGTH,
    "tie_word_embeddings": False,
}
_ROWS = 24
_BASE_STEPS, _BASE_LR = 1_500, 2e-3
_STEPS, _LR = 300, 1e-3
_SINGLE = Expressions(max_digits=4, min_operators=1, max_operators=1)
_WHOLE = Expressions()
_NUM_TESTS = 200
_CLOSE = 0.01  # of the true value, as the paper's relative error allows


def _run(trial: Trial) -> Mapping[str, float]:
    tests = _tests(trial.seed)
    result = _arm(trial, "result")
    figures = _scores(trial, result, tests, "result")
    if trial.is_ablated:
        return {"exact": figures["exact"], "gain": 0.0}
    trained: set[str] = set()
    steps = _scores(trial, _arm(trial, "steps", trained), tests, "steps")
    orders = {_in_any_order(expression) for expression in trained}
    return {
        "exact": steps["exact"],
        "gain": steps["exact"] - figures["exact"],
        "overlap": float(sum(_in_any_order(test) in orders for test in tests)),
        "close": steps["close"],
        "exact_result_only": figures["exact"],
        "smollm2_exact": _smollm2_exact(tests[:40]),
    }


def _tests(seed: int) -> list[str]:
    random = Random(3_000_017 + seed)
    return [_WHOLE.draw(random, is_test=True) for _ in range(_NUM_TESTS)]


def _in_any_order(expression: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\d+|[-+*]", expression)))


# --- training ----------------------------------------------------------------------------------


def text_of(expression: str, writing: Writing) -> str:
    r"""Write an expression out to its result, with a line's end.

    >>> text_of("1+2*3", "steps"), text_of("1+2*3", "result")
    ('1+2*3=1+6=7\n', '1+2*3=7\n')
    """
    steps = steps_of(expression)
    return "=".join([expression, *(steps if writing == "steps" else steps[-1:])]) + "\n"


def rows_of_texts(texts: Sequence[str], count: int, length: int) -> "Rows":
    """Lay texts into rows one after the other, none of them cut; expressions bear no loss.

    Args:
        texts: More than fill the rows; what is left over is not used.
        count: Rows.
        length: Of each.
    """
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    tokens = torch.zeros(count, length + 1, dtype=torch.long)
    labels = torch.full((count, length), NO_LABEL)
    row, used = 0, 1
    for text in texts:
        if used + len(text) > length + 1:
            row, used = row + 1, 1
        if row == count:
            break
        codes = torch.tensor([_CODES[letter] for letter in text])
        begin = text.index("=") + 1
        tokens[row, used : used + len(text)] = codes
        labels[row, used + begin - 1 : used + len(text) - 1] = codes[begin:]
        used += len(text)
    return Rows(tokens[:, :-1].contiguous(), labels)


def _batch(random: Random, expressions: Expressions, writing: Writing, seen: set[str]) -> "Rows":
    texts: list[str] = []
    missing = _ROWS * _LENGTH
    while missing > 0:
        expression = expressions.draw(random, is_test=False)
        seen.add(expression)
        texts.append(text_of(expression, writing))
        missing -= len(texts[-1])
    return rows_of_texts(texts, _ROWS, _LENGTH)


def _base(trial: Trial) -> "TorchDecoder":
    """Give the decoder that knows single operations, which all arms begin from."""
    from yearling.systems.tiny_bases import Training, decoder_of, fit, kept_decoder

    training = Training(_BASE_STEPS, _BASE_LR)

    def train() -> "TorchDecoder":
        decoder, seen = decoder_of(_SIZES, 0), set[str]()

        def draw(step: int) -> "Rows":
            return _batch(Random(5_000_011 + step), _SINGLE, "result", seen)

        fit(decoder, draw, training, trial.say)
        return decoder

    settings = {
        "sizes": dict(_SIZES),
        "training": vars(training),
        "rows": [_ROWS, _LENGTH],
        "expressions": vars(_SINGLE),
        "modules": ["systems.arithmetic"],
    }
    return kept_decoder("mathglm", settings, train, trial.say)


def _arm(trial: Trial, writing: Writing, seen: "set[str] | None" = None) -> "TorchDecoder":
    """Teach the base whole expressions, written in one of the two ways."""
    from yearling.systems.tiny_bases import Training, fit

    decoder = _base(trial)
    known = set[str]() if seen is None else seen

    def draw(step: int) -> "Rows":
        return _batch(Random(1_000_003 * (trial.seed + 1) + step), _WHOLE, writing, known)

    seconds = fit(decoder, draw, Training(_STEPS, _LR, seed=trial.seed))
    trial.say(f"{writing}: {_STEPS} steps in {seconds:.1f} s, {len(known)} expressions")
    return decoder


# --- answers -----------------------------------------------------------------------------------


def exact_share(answers: Sequence[str], expressions: Sequence[str]) -> float:
    """Give the share of texts that end in their expression's value, in %.

    >>> exact_share(["4+3=7", "8"], ["1+3+3", "2+5"])
    50.0
    """
    right = [
        answer.split("=")[-1] == steps_of(expression)[-1]
        for answer, expression in zip(answers, expressions, strict=True)
    ]
    return 100.0 * sum(right) / len(right)


def _scores(
    trial: Trial, decoder: "TorchDecoder", tests: Sequence[str], writing: Writing
) -> dict[str, float]:
    answers = _answers(decoder, tests, trial.folder / writing)
    close = [
        _is_close(answer.split("=")[-1], int(steps_of(test)[-1]))
        for answer, test in zip(answers, tests, strict=True)
    ]
    exact = exact_share(answers, tests)
    trial.say(f"{writing}: {exact:.1f} % exact; {tests[0]}={answers[0]}")
    return {"exact": exact, "close": 100.0 * sum(close) / len(close)}


def _is_close(answer: str, value: int) -> bool:
    try:
        return abs(int(answer) - value) <= _CLOSE * abs(value)
    except ValueError:
        return False


def _answers(decoder: "TorchDecoder", tests: Sequence[str], folder: Path) -> list[str]:
    """Let the serving engine go on from every expression, up to the line's end."""
    from yearling import LLM, SamplingParams
    from yearling.systems.tiny_bases import save_folder

    save_folder(decoder, _SIZES, folder)
    prompts = [[_CODES[letter] for letter in f"\n{test}="] for test in tests]
    longest = max(map(len, prompts))
    params = SamplingParams(
        max_tokens=_LENGTH - longest, temperature=0.0, stop_token_ids=[_CODES["\n"]]
    )
    with LLM(folder, weights="float32") as llm:
        results = llm.generate(prompts, params)
    return ["".join(_ALPHABET[token] for token in result.tokens).strip() for result in results]


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
    return exact_share([answer.strip(" .") for answer in answers], tests)


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
        honesty="Here the decoder has 0.8 million weights, and expressions two to four operators "
        "of +, - and x over whole numbers of one to three digits, products by one digit; no "
        "division, powers, decimals or fractions, and no word problems. All seeds begin from one "
        "base that learned single operations. What is almost perfect in the paper is the share "
        "within 1 %.",
        parts=(
            "models.families.llama",
            "models.torch_decoder",
            "serving.llm",
            "systems.arithmetic",
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
