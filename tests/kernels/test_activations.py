import math

import numpy as np
import pytest

from tests.kernels.programs import feed, native, run_both, step_of
from yearling.kernels import ops
from yearling.kernels.reference_operations import activated

ACTIVATIONS = ["silu", "gelu", "gelu_tanh", "relu", "relu_squared", "quick_gelu"]
WIDTHS = [1, 5, 8, 100]


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("silu", 2 / (1 + math.exp(-2))),
        ("gelu", 1 + math.erf(math.sqrt(2))),
        ("gelu_tanh", 1 + math.tanh(math.sqrt(2 / math.pi) * (2 + 0.044715 * 8))),
        ("relu", 2.0),
        ("relu_squared", 4.0),
        ("quick_gelu", 2 / (1 + math.exp(-1.702 * 2))),
    ],
)
def test_activations_of_two_are_what_their_formulas_say(activation, expected):
    assert activated(np.array([2.0]), activation)[0] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activate_errs_by_a_few_units_in_the_last_place(kernels, activation):
    """Over a fine grid, in units of the result; where it vanishes, of the smallest of interest."""
    values = np.linspace(-12, 12, 60_000, dtype=np.float32).reshape(100, 600)
    program = [*feed(600), ops.Activate("in", activation)]
    ours, truth = run_both(program, step_of(values), "in", kernels=kernels, threads=3)
    # exp(-x²/2) magnifies the rounding of its argument by up to 72 far out in gelu's tail.
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=3e-7)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", WIDTHS)
def test_activate_equals_reference(rng, kernels, activation, width):
    values = (rng.normal(size=(7, width)) * 30).astype(np.float32)
    program = [*feed(width), ops.Activate("in", activation)]
    ours, truth = run_both(program, step_of(values), "in", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activate_lets_a_nan_through(kernels, activation):
    values = np.array([[1, np.nan, -1], [1, 2, 3]], np.float32)
    core = native([*feed(3), ops.Activate("in", activation)], kernels)
    core.run(step_of(values))
    np.testing.assert_array_equal(np.isnan(core.view("in", 2)), np.isnan(values))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("width", WIDTHS)
def test_gate_equals_reference(rng, kernels, activation, width):
    values = (rng.normal(size=(5, 2 * width)) * 20).astype(np.float32)
    program = [*feed(2 * width), ops.Gate("in", "out", activation)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


def test_silu_gate_keeps_its_precision_where_the_gate_vanishes(rng, kernels):
    values = np.concatenate([np.linspace(-80, 80, 1000), np.ones(1000)]).astype(np.float32)[None]
    ours, truth = run_both([*feed(2000), ops.Gate("in", "out")], step_of(values), "out",
                           kernels=kernels)  # fmt: skip
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("width", WIDTHS)
def test_clamp_keeps_columns_within_the_limit_and_leaves_the_others(rng, kernels, width):
    values = (rng.normal(size=(6, width + 3)) * 5).astype(np.float32)
    program = [*feed(width + 3), ops.Clamp("in", 2, width, 1.5)]
    ours, truth = run_both(program, step_of(values), "in", kernels=kernels)
    np.testing.assert_array_equal(ours, truth.astype(np.float32))
    np.testing.assert_array_equal(ours[:, :2], values[:, :2])


@pytest.mark.parametrize("width", [1, 9, 5000])
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_soft_cap_equals_reference(rng, kernels, width, cap):
    values = (rng.normal(size=(3, width)) * 20).astype(np.float32)
    program = [*feed(width), ops.SoftCap("in", cap)]
    ours, truth = run_both(program, step_of(values), "in", kernels=kernels, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=6e-7)


def test_soft_cap_of_tiny_values_keeps_them(kernels):
    values = np.array([[1e-30, -1e-20, 1e-8, 0, 0.624, 0.626, -5, 90]], np.float32)
    ours, truth = run_both([*feed(8), ops.SoftCap("in", 1.0)], step_of(values), "in",
                           kernels=kernels)  # fmt: skip
    np.testing.assert_allclose(ours, truth, rtol=3e-7)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ([ops.Activate("in", "swish")], "no activation is named 'swish'; known: silu, gelu"),
        ([ops.Gate("in", "out", "tanh")], "no activation is named 'tanh'"),
        ([ops.Gate("in", "in")], "twice as wide"),
        ([ops.Clamp("in", 4, 5, 1.0)], "must lie within"),
        ([ops.Clamp("in", 0, 5, -1.0)], "limit be positive"),
        ([ops.SoftCap("in", 0.0)], "cap must be positive"),
    ],
)
def test_activations_refuse_what_does_not_fit(program, message):
    with pytest.raises(ValueError, match=message):
        native([*feed(8), *program])
