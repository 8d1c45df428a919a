"""A small decoder that computes what an expression comes to, with every step written or none.

Every number takes the same places: its sign or an opening bracket, four digits with the lowest
first, and a closing bracket. So a digit lies at few distances from what it is copied or computed
from, and copying is learned within some 1,000 steps. With the lowest digit first, a carry is known
before it is needed.

Source: Yang et al. 2023 (MathGLM), arXiv:2309.03241, section 3.1, for writing every step.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Literal

from yearling.systems.arithmetic import Expressions, steps_of

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = [
    "ALPHABET",
    "BASE",
    "LONGEST",
    "SIZES",
    "Stage",
    "Writing",
    "arithmetic_base",
    "codes_of",
    "expressions_of",
    "question_of",
    "rows_of_texts",
    "text_of",
    "train_stage",
    "value_of",
]

Writing = Literal["steps", "result"]
"""Whether each step is written, or the result alone."""

ALPHABET = "\n=0123456789+-*() "
LONGEST = 128
"""Tokens of a row; four operators with all steps take 105."""
SIZES: Mapping[str, Any] = {
    "model_type": "llama",
    "vocab_size": len(ALPHABET),
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": LONGEST,
    "tie_word_embeddings": False,
}
_CODES = {letter: code for code, letter in enumerate(ALPHABET)}
_TERM = re.compile(r"(\(?)(-?\d+)(\)?)([-+*]?)")
_WIDTH = 4
_STD = 0.08  # of the first weights: narrower ones take longer to look back


# --- writing -----------------------------------------------------------------------------------


def text_of(expression: str, writing: Writing) -> str:
    r"""Write an expression out to its result, lowest digits first, and a line's end.

    >>> text_of("1+2*30", "steps")
    ' 1000 + 2000 * 0300 = 1000 + 0600 = 1600\n'
    >>> text_of("1+2*30", "result")
    ' 1000 + 2000 * 0300 = 1600\n'
    """
    steps = steps_of(expression)
    written = steps if writing == "steps" else steps[-1:]
    return question_of(expression) + "=".join(map(_places, written)).rstrip() + "\n"


def question_of(expression: str) -> str:
    """Write an expression with its sign of equality; the rest of `text_of` answers it.

    >>> question_of("12-(5-40)")
    ' 2100 -(5000 - 0400)='
    """
    return _places(expression) + "="


def _places(expression: str) -> str:
    return _TERM.sub(_term, expression)


def _term(found: re.Match[str]) -> str:
    """Write a number in its places; one below zero stands in brackets, which are left out."""
    opening, number, closing, operator = found.groups()
    digits = number.lstrip("-").zfill(_WIDTH)[::-1]
    if number.startswith("-"):
        return f"-{digits} {operator}"
    return f"{opening or ' '}{digits}{closing or ' '}{operator}"


def value_of(answer: str) -> int | None:
    """Give the number behind the last sign of equality, or None if there is none.

    >>> value_of(" 1000 + 0600 =-1600"), value_of(" 1000 + 0600 =")
    (-61, None)
    """
    last = answer.rstrip("\n").split("=")[-1]
    if not re.fullmatch(rf"[ -]\d{{{_WIDTH}}}", last):
        return None
    value = int(last[:0:-1])
    return -value if last[0] == "-" else value


def codes_of(text: str) -> list[int]:
    """Give the ids of a text's letters."""
    return [_CODES[letter] for letter in text]


def rows_of_texts(texts: Sequence[str]) -> "Rows":
    """Lay out one text a row, behind a line's end; expressions bear no loss.

    Rows have the length of the longest text, and are filled up with line's ends.
    """
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import Rows

    length = max(map(len, texts))
    tokens = torch.full((len(texts), length), _CODES["\n"])
    labels = torch.full((len(texts), length), NO_LABEL)
    for row, text in enumerate(texts):
        codes = torch.tensor(codes_of(text))
        begin = text.index("=") + 1
        tokens[row, 1 : len(text)] = codes[:-1]
        labels[row, begin : len(text)] = codes[begin:]
    return Rows(tokens, labels)


# --- training ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """A stretch of training.

    Attributes:
        steps: Of the optimizer.
        lr: Learning rate.
        schedule: Its shape.
        seed: Of the expressions.
        tokens: Of a step, about; the last row goes over.
        single_share: Steps on single operations, of all.
    """

    steps: int
    lr: float
    schedule: str
    seed: int
    tokens: int = 1_024
    single_share: float = 0.2


# Many small steps: 1,600 of 1,024 tokens at 2e-3 got further in the same time than 900 of 2,048 at
# 3e-3 (23 against 5 % whole texts of two operators).
BASE = Stage(6_000, 2e-3, "wsd", 1_000_003)


def expressions_of(stage: Stage, step: int, writing: Writing) -> list[str]:
    """Draw what a step trains on; all have equally many operators, so that rows are full."""
    random = Random(stage.seed + step)
    is_single = random.random() < stage.single_share
    count = 1 if is_single else 2 + step % 3
    kinds = Expressions(3, count, count, operators="+-*" if is_single else "++--*")
    drawn: list[str] = []
    missing = stage.tokens
    while missing > 0:
        drawn.append(kinds.draw(random, is_test=False))
        missing -= len(text_of(drawn[-1], writing))
    return drawn


def train_stage(
    decoder: "TorchDecoder", stage: Stage, writing: Writing, say: Callable[[str], None]
) -> None:
    """Train a decoder on expressions, written in one of the two ways."""
    from yearling.systems.tiny_bases import Training, fit

    def draw(step: int) -> "Rows":
        return rows_of_texts([text_of(e, writing) for e in expressions_of(stage, step, writing)])

    seconds = fit(decoder, draw, Training(stage.steps, stage.lr, stage.schedule), say)
    say(f"{writing}: {stage.steps} steps in {seconds:.1f} s")


def arithmetic_base(writing: Writing, say: Callable[[str], None]) -> "TorchDecoder":
    """Give the decoder that learned one of the two ways, from the same first weights as the other.

    Args:
        say: Is told what goes on, a line at a time.
    """
    from yearling.models.torch_decoder import initialise
    from yearling.systems.tiny_bases import decoder_of, kept_decoder

    def train() -> "TorchDecoder":
        decoder = decoder_of(SIZES, 0)
        initialise(decoder, seed=0, std=_STD)
        train_stage(decoder, BASE, writing, say)
        return decoder

    settings = {
        "sizes": dict(SIZES),
        "training": asdict(BASE),
        "writing": writing,
        "modules": ["systems.arithmetic_base"],
    }
    return kept_decoder(f"arithmetic-{writing}", settings, train, say)
