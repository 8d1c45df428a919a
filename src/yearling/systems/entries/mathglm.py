"""MathGLM: arithmetic step by step, on expressions that nobody trained on.

A small decoder learns single operations, then expressions of several: one arm writes every step,
the other only the result, from the same base with as many tokens. Expressions held out for the test
differ from all trained ones in any order of their numbers. Answers come from the serving engine.

Source: Yang et al. 2023, arXiv:2309.03241.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
_WIDTH = 4
_LENGTH = 128
_SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(_ALPHABET),
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": _LENGTH,
    "tie_word_embeddings": False,
}
_ROWS = 16
_STD = 0.06  # of the first weights: a layer as narrow as this learns sooner than from 0.02
_OPERATIONS = (
    Expressions(min_operators=1, max_operators=1, operators="+-*"),
    Expressions(max_digits=4, min_operators=1, max_operators=1, operators="+-"),
)
_WHOLE = Expressions()
_SHORT = Expressions(min_operators=1)
_NUM_TESTS = 200
_CLOSE = 0.01  # of the true value, as the paper's relative error allows


def _run(trial: Trial) -> Mapping[str, float]:
    tests = _tests(trial.seed)
    result = _scores(trial, "result", tests)
    if trial.is_ablated:
        return {"exact": result["exact"], "gain": 0.0}
    steps = _scores(trial, "steps", tests)
    return {
        "exact": steps["exact"],
        "gain": steps["exact"] - result["exact"],
        "overlap": float(_overlap(trial.seed, tests)),
        "close": steps["close"],
        "exact_result_only": result["exact"],
        "smollm2_exact": _smollm2_exact(tests[:40]),
    }


def _tests(seed: int) -> list[str]:
    random = Random(3_000_017 + seed)
    return [_WHOLE.draw(random, is_test=True) for _ in range(_NUM_TESTS)]


def _in_any_order(expression: str) -> tuple[str, ...]:
    return tuple(sorted(re.findall(r"\d+|[-+*]", expression)))


def _overlap(seed: int, tests: Sequence[str]) -> int:
    """Draw all that the arm with steps was trained on once more, and count the tests among it."""
    orders = {_in_any_order(test) for test in tests}
    found = set[tuple[str, ...]]()
    for stage in (_FIRST, _SECOND, _last(seed)):
        for step in range(stage.steps):
            drawn = _expressions(stage, step, "steps")
            found |= orders & {_in_any_order(expression) for expression in drawn}
    return len(found)


# --- training ----------------------------------------------------------------------------------


def text_of(expression: str, writing: Writing) -> str:
    r"""Write an expression out to its result, every number with four digits, and a line's end.

    >>> text_of("1+2*3", "steps"), text_of("1+2*3", "result")
    ('0001+0002*0003=0001+0006=0007\n', '0001+0002*0003=0007\n')
    """
    steps = steps_of(expression)
    return _wide("=".join([expression, *(steps if writing == "steps" else steps[-1:])])) + "\n"


def _wide(text: str) -> str:
    """Give every number the same width, so that places of equal worth lie equally far apart."""
    return re.sub(r"\d+", lambda number: number[0].zfill(_WIDTH), text)


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


@dataclass(frozen=True)
class _Stage:
    """A stretch of training.

    Attributes:
        steps: Of the optimizer.
        lr: Learning rate.
        schedule: Its shape.
        draw: Gives an expression for training.
        seed: Of what is drawn.
    """

    steps: int
    lr: float
    schedule: str
    draw: Callable[[Random], str]
    seed: int


def _operation(random: Random) -> str:
    return random.choice(_OPERATIONS).draw(random, is_test=False)


def _short_or_operation(random: Random) -> str:
    return _operation(random) if random.random() < 0.2 else _SHORT.draw(random, is_test=False)


def _whole(random: Random) -> str:
    return _WHOLE.draw(random, is_test=False)


_FIRST = _Stage(1_500, 2e-3, "wsd", _operation, 5_000_011)
_SECOND = _Stage(1_500, 1e-3, "wsd", _short_or_operation, 7_000_003)


def _last(seed: int) -> _Stage:
    return _Stage(100, 3e-4, "cosine", _whole, 1_000_003 * (seed + 11))


def _expressions(stage: _Stage, step: int, writing: Writing) -> list[str]:
    """Give the expressions of a step: more than fill its rows."""
    random = Random(stage.seed + step)
    drawn: list[str] = []
    missing = _ROWS * _LENGTH
    while missing > 0:
        drawn.append(stage.draw(random))
        missing -= len(text_of(drawn[-1], writing))
    return drawn


def _train(decoder: "TorchDecoder", stage: _Stage, writing: Writing, trial: Trial) -> None:
    from yearling.systems.tiny_bases import Training, fit

    def draw(step: int) -> "Rows":
        drawn = _expressions(stage, step, writing)
        return rows_of_texts([text_of(each, writing) for each in drawn], _ROWS, _LENGTH)

    training = Training(stage.steps, stage.lr, stage.schedule)
    seconds = fit(decoder, draw, training, trial.say)
    trial.say(f"{writing}: {stage.steps} steps in {seconds:.1f} s")


def _operations_base(trial: Trial) -> "TorchDecoder":
    """Give the decoder that knows single operations."""
    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import decoder_of, kept_decoder

    def train() -> "TorchDecoder":
        decoder = decoder_of(_SIZES, 0)
        initialise(decoder, seed=0, std=_STD)
        _train(decoder, _FIRST, "result", trial)
        return decoder

    return kept_decoder("mathglm-operations", _SETTINGS, train, trial.say)


def _base(trial: Trial, writing: Writing) -> "TorchDecoder":
    """Give the decoder that went on from there to expressions, written in one of the two ways."""
    from yearling.systems.tiny_bases import kept_decoder

    def train() -> "TorchDecoder":
        decoder = _operations_base(trial)
        _train(decoder, _SECOND, writing, trial)
        return decoder

    return kept_decoder(f"mathglm-{writing}", _SETTINGS, train, trial.say)


_SETTINGS = {"sizes": dict(_SIZES), "modules": ["systems.arithmetic", "systems.entries.mathglm"]}


# --- answers -----------------------------------------------------------------------------------


def exact_share(answers: Sequence[str], expressions: Sequence[str]) -> float:
    """Give the share of texts that end in their expression's value, in %.

    >>> exact_share(["4+3=7", "8"], ["1+3+3", "2+5"])
    50.0
    """
    right = [
        _value(answer) == int(steps_of(expression)[-1])
        for answer, expression in zip(answers, expressions, strict=True)
    ]
    return 100.0 * sum(right) / len(right)


def _scores(trial: Trial, writing: Writing, tests: Sequence[str]) -> dict[str, float]:
    decoder = _base(trial, writing)
    _train(decoder, _last(trial.seed), writing, trial)
    answers = _answers(decoder, tests, trial.folder / writing)
    close = 0
    for answer, test in zip(answers, tests, strict=True):
        value, true = _value(answer), int(steps_of(test)[-1])
        close += value is not None and abs(value - true) <= _CLOSE * abs(true)
    exact = exact_share(answers, tests)
    trial.say(f"{writing}: {exact:.1f} % exact; {tests[0]}={answers[0]}")
    return {"exact": exact, "close": 100.0 * close / len(tests)}


def _value(answer: str) -> int | None:
    """Give the number after the last sign of equality."""
    last = answer.split("=")[-1]
    return int(last) if re.fullmatch(r"-?\d+", last) else None


def _answers(decoder: "TorchDecoder", tests: Sequence[str], folder: Path) -> list[str]:
    """Let the serving engine go on from every expression, up to the line's end."""
    from yearling import LLM, SamplingParams
    from yearling.systems.tiny_bases import save_folder

    save_folder(decoder, _SIZES, folder)
    prompts = [[_CODES[letter] for letter in f"\n{_wide(test)}="] for test in tests]
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
        honesty="Here the decoder has 0.5 million weights, and expressions two to four operators "
        "of +, - and x over whole numbers of one to three digits, products by one digit; no "
        "division, powers, decimals or fractions, and no word problems. Every number is written "
        "with four digits, which the paper does not do. Both arms begin from one base that learned "
        "single operations; each way of writing goes on in one training for all seeds, and a seed "
        "draws the last hundred steps and the test. What is almost perfect in the paper is the "
        "share within 1 %.",
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
