"""What a system's file may say: checks that can fail, ablations that name them."""

from dataclasses import replace

import pytest

from yearling.systems.system import Ablation, Check, System, entry_name


def test_check_needs_exactly_one_bound() -> None:
    for bounds in ({}, {"at_least": 1.0, "at_most": 2.0}):
        with pytest.raises(ValueError, match="exactly one, or it cannot fail"):
            Check("copied", "%", "Share.", **bounds)


def test_check_judges_the_mean_or_the_worst() -> None:
    values = [96.0, 98.0, 100.0]
    assert Check("a", "%", "Share.", at_least=97.0).holds(values)
    assert not Check("a", "%", "Share.", at_least=97.0, is_worst_judged=True).holds(values)
    assert not Check("a", "s", "Time.", at_most=99.0, is_worst_judged=True).holds(values)


@pytest.mark.parametrize("is_worst_judged", [False, True])
def test_check_does_not_hold_for_what_is_not_a_number(is_worst_judged: bool) -> None:
    for bound in ({"at_least": 0.0}, {"at_most": 9.0}):
        check = Check("a", "%", "Share.", is_worst_judged=is_worst_judged, **bound)
        assert not check.holds([1.0, float("nan"), 2.0])


def test_ablation_must_break_a_check_that_exists(toy: System) -> None:
    for breaks in ((), ("copied", "pasted")):
        with pytest.raises(ValueError, match="name at least one of them, and no other"):
            replace(toy, ablation=Ablation("selection off", breaks))


def test_checks_have_names_of_their_own(toy: System) -> None:
    with pytest.raises(ValueError, match="give each its own name"):
        replace(toy, checks=(toy.checks[0], toy.checks[0]))


@pytest.mark.parametrize("seeds", [(0, 1), (0, 1, 1)])
def test_spread_needs_three_seeds(toy: System, seeds: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="at least 3 different ones"):
        replace(toy, seeds=seeds)


def test_slug_with_a_digit_first_has_a_file_that_python_imports() -> None:
    assert entry_name("360-zhinao") == "system_360_zhinao"
    assert entry_name("gpt-3.5-turbo-api") == "gpt_3_5_turbo_api"
