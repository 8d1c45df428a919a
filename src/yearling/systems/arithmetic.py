"""Arithmetic written out step by step: expressions, and their way to a number.

Each step computes one operation of what is left: the pair in brackets first, then products, then
sums from the left. A negative number within an expression stands in brackets.

Source: Yang et al. 2023 (MathGLM), arXiv:2309.03241, section 3.1.
"""

import re
import zlib
from dataclasses import dataclass
from random import Random

__all__ = ["Expressions", "is_held_out", "steps_of"]

_NUMBER = r"(\d+|\(-\d+\))"
_BRACKETS = re.compile(r"\((\d+)([-+])(\d+)\)")
_PRODUCT = re.compile(rf"{_NUMBER}(\*){_NUMBER}")
_SUM = re.compile(rf"^(-?\d+|\(-\d+\))([-+]){_NUMBER}")
_HELD_OUT_OF = 16


@dataclass(frozen=True)
class Expressions:
    """Which expressions are drawn.

    Attributes:
        max_digits: Of a number; products have one number of one digit.
        min_operators: Of an expression.
        max_operators: Of an expression.
        operators: Each as often as it stands here.
        max_value: Of a number on the way to the result, and of the result.
    """

    max_digits: int = 3
    min_operators: int = 2
    max_operators: int = 4
    operators: str = "++--*"
    max_value: int = 9_999

    def draw(self, random: Random, *, is_test: bool) -> str:
        """Draw an expression, held out for tests or not."""
        while True:
            expression = self._draw(random)
            if is_held_out(expression) == is_test and self._is_within(expression):
                return expression

    def _is_within(self, expression: str) -> bool:
        numbers = re.findall(r"\d+", "=".join(steps_of(expression)))
        return all(int(number) <= self.max_value for number in numbers)

    def _draw(self, random: Random) -> str:
        num_operators = random.randint(self.min_operators, self.max_operators)
        parts = [self._number(random)]
        for _ in range(num_operators):
            operator = random.choice(self.operators)
            number = str(random.randint(2, 9)) if operator == "*" else self._number(random)
            parts += [operator, number]
        pairs = [
            place
            for place in range(0, len(parts) - 1, 2)
            if parts[place + 1] in "+-" and (place == 0 or parts[place - 1] in "+-")
        ]
        if pairs and num_operators > 1 and random.random() < 0.5:
            place = random.choice(pairs)
            parts[place] = "(" + parts[place]
            parts[place + 2] += ")"
        return "".join(parts)

    def _number(self, random: Random) -> str:
        return str(random.randrange(10 ** random.randint(1, self.max_digits)))


def steps_of(expression: str) -> list[str]:
    """Give what is left after each operation; the last is the result.

    >>> steps_of("12-(5-40)+3*2")
    ['12-(-35)+3*2', '12-(-35)+6', '47+6', '53']
    """
    steps = []
    left = expression
    while (after := _next(left)) is not None:
        steps.append(after)
        left = after
    return steps


def _next(left: str) -> str | None:
    found = _BRACKETS.search(left) or _PRODUCT.search(left) or _SUM.match(left)
    if found is None:
        return None
    first, operator, second = found.groups()
    result = _computed(_value(first), operator, _value(second))
    is_inside = found.start() > 0
    text = f"({result})" if result < 0 and is_inside else str(result)
    return left[: found.start()] + text + left[found.end() :]


def _computed(first: int, operator: str, second: int) -> int:
    if operator == "*":
        return first * second
    return first + second if operator == "+" else first - second


def _value(number: str) -> int:
    return int(number.strip("()"))


def is_held_out(expression: str) -> bool:
    """Whether an expression is for testing alone, and all with its numbers and signs in any order.

    >>> is_held_out("12+3-40") == is_held_out("40-3+12")
    True
    """
    parts = sorted(re.findall(r"\d+|[-+*]", expression))
    return zlib.crc32(" ".join(parts).encode()) % _HELD_OUT_OF == 0
