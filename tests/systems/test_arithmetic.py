"""Expressions are solved as written, and no test expression is trained on in any order."""

import re
from random import Random

import pytest

from yearling.systems.arithmetic import Expressions, is_held_out, steps_of

EXPRESSION = re.compile(r"[-+*()\d]+")


@pytest.mark.parametrize("seed", range(3))
def test_every_step_has_the_value_of_the_expression(seed: int) -> None:
    random = Random(seed)
    for _ in range(500):
        expression = Expressions().draw(random, is_test=False)
        assert EXPRESSION.fullmatch(expression)
        value = eval(expression)
        steps = steps_of(expression)
        assert len(steps) == len(re.findall(r"\d[-+*]|\)[-+*]", expression))
        assert [eval(step) for step in steps] == [value] * len(steps)
        assert steps[-1] == str(value)


def test_a_step_computes_one_operation() -> None:
    assert steps_of("7-2*3") == ["7-6", "1"]
    assert steps_of("2-9*4+5") == ["2-36+5", "-34+5", "-29"]
    assert steps_of("(3-8)*4") == ["-5*4", "-20"]
    assert steps_of("10-(3-8)*4") == ["10-(-5)*4", "10-(-20)", "30"]


def test_sizes_are_kept() -> None:
    random = Random(0)
    drawn = [Expressions(2, 1, 3).draw(random, is_test=True) for _ in range(300)]
    assert max(len(number) for e in drawn for number in re.findall(r"\d+", e)) == 2
    assert {len(re.findall(r"[-+*]", e)) for e in drawn} == {1, 2, 3}


def test_orders_of_one_expression_are_on_one_side() -> None:
    random = Random(1)
    sides = set()
    for _ in range(200):
        expression = Expressions().draw(random, is_test=False)
        parts = re.findall(r"\d+|[-+*]", expression)
        numbers, operators = parts[::2], parts[1::2]
        random.shuffle(numbers)
        sides.add(is_held_out("".join(map("".join, zip(numbers, [*operators, ""], strict=True)))))
    assert sides == {False}
    assert is_held_out(Expressions().draw(random, is_test=True))


def test_no_number_on_the_way_is_larger_than_asked() -> None:
    random = Random(2)
    expressions = Expressions(4, 1, 4, operators="+*", max_value=20_000)
    drawn = [expressions.draw(random, is_test=False) for _ in range(300)]
    largest = max(
        int(number) for e in drawn for step in steps_of(e) for number in re.findall(r"\d+", step)
    )
    assert 10_000 < largest <= 20_000
