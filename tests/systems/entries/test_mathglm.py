"""What MathGLM's row counts: values that are right, and values that are nearly right."""

from yearling.systems.entries import mathglm


def test_only_the_value_counts_as_exact() -> None:
    assert mathglm.exact_share([81, 82, -81, None], ["40*2+1"] * 4) == 25


def test_a_hundredth_of_the_value_counts_as_close() -> None:
    assert mathglm.close_share([100, 99, 101, 102, -100, None], ["40*2+20"] * 6) == 50


def test_nothing_but_zero_is_close_to_zero() -> None:
    assert mathglm.close_share([0, 1], ["5-5"] * 2) == 50
