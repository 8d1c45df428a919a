"""Mamba's convolution and scan: chunks, company and slots never change a bit."""

import numpy as np
import pytest

from tests.kernels.programs import feed, native, run_both, step_of, truth_of
from yearling.kernels import ops

SHAPES = [(1, 1, 1), (8, 4, 16), (21, 4, 5), (40, 2, 16)]  # channels, taps, states


def convolution_of(rng, channels, taps, layer=0):
    weight = rng.normal(size=(channels, taps)).astype(np.float32)
    return ops.Convolution("in", "x", layer, weight, rng.normal(size=channels).astype(np.float32))


def program_of(rng, channels, taps, states):
    """Input columns: x, then the gate, time step, B and C, as a real block lays them out."""
    width = 3 * channels + 2 * states
    matrix = -np.exp(rng.normal(size=(channels, states))).astype(np.float32)
    skip = rng.normal(size=channels).astype(np.float32)
    program = [
        *feed(width),
        convolution_of(rng, channels, taps),
        ops.Copy("in", "time_step", 2 * channels, channels),
        ops.SelectiveScan(
            "x", "time_step", "in", 3 * channels, 3 * channels + states, "in", channels,
            "out", 0, matrix, skip,
        ),
    ]  # fmt: skip
    return width, program


@pytest.mark.parametrize(("channels", "taps", "states"), SHAPES)
@pytest.mark.parametrize("has_bias", [True, False])
def test_convolution_equals_reference(rng, kernels, channels, taps, states, has_bias):
    op = convolution_of(rng, channels, taps)
    if not has_bias:
        op = ops.Convolution("in", "x", 0, op.weight, None)
    values = rng.normal(size=(13, channels + 3)).astype(np.float32)
    step = step_of(values, [(0, 2, [0]), (0, 1, [1]), (0, 10, [2])])
    ours, truth = run_both([*feed(channels + 3), op], step, "x", kernels=kernels, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)


def test_convolution_looks_back_and_not_ahead(kernels):
    """An impulse comes out as the weights in reverse, from its own time on."""
    weight = np.array([[3.0, 2.0, 1.0]], np.float32)
    values = np.zeros((6, 1), np.float32)
    values[2] = 1
    core = native([*feed(1), ops.Convolution("in", "x", 0, weight, None)], kernels)
    core.run(step_of(values))
    response = np.array([0, 0, 1, 2, 3, 0])
    np.testing.assert_allclose(
        core.view("x", 6)[:, 0], response / (1 + np.exp(-response)), rtol=1e-6
    )


@pytest.mark.parametrize(("channels", "taps", "states"), SHAPES)
def test_scan_equals_reference(rng, kernels, channels, taps, states):
    width, program = program_of(rng, channels, taps, states)
    values = rng.normal(size=(53, width)).astype(np.float32)
    step = step_of(values, [(0, 2, [0]), (0, 1, [1]), (0, 50, [2, 3, 4, 5])])
    ours, truth = run_both(program, step, "out", kernels=kernels, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


def test_scan_of_one_channel_is_the_recurrence_by_hand(kernels):
    """With Δ = ln 2, A = -1, B = C = 1 and skip 0, h halves at every step and gains Δ·x."""
    time_step = np.log(np.expm1(np.log(2)))  # softplus of it is ln 2
    columns = np.array([[1, time_step, 1, 1, 50], [0, time_step, 1, 1, 50]], np.float32)
    program = [
        *feed(5),
        ops.Copy("in", "x", 0, 1),
        ops.Copy("in", "dt", 1, 1),
        ops.SelectiveScan("x", "dt", "in", 2, 3, "in", 4, "out", 0,
                          np.full((1, 1), -1, np.float32), np.zeros(1, np.float32)),
    ]  # fmt: skip
    core = native(program, kernels)
    core.run(step_of(columns))
    expected = np.log(2) * np.array([1, 0.5]) * 50  # silu(50) is 50
    np.testing.assert_allclose(core.view("out", 2)[:, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("time_step", [-100.0, -20.0, -1.0, 0.0, 1.0, 19.0, 80.0])
def test_scan_takes_softplus_of_any_time_step(kernels, time_step):
    columns = np.array([[1, time_step, 1, 1, 50]], np.float32)
    program = [
        *feed(5),
        ops.Copy("in", "x", 0, 1),
        ops.Copy("in", "dt", 1, 1),
        ops.SelectiveScan("x", "dt", "in", 2, 3, "in", 4, "out", 0,
                          np.full((1, 1), -1, np.float32), np.zeros(1, np.float32)),
    ]  # fmt: skip
    core = native(program, kernels)
    core.run(step_of(columns))
    expected = np.logaddexp(0, np.float64(time_step)) * 50
    np.testing.assert_allclose(core.view("out", 1)[0, 0], expected, rtol=1e-6, atol=1e-35)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("channels", "taps", "states"), SHAPES)
def test_states_are_bit_equal_whatever_the_chunks_and_neighbours(
    rng, kernels, threads, channels, taps, states
):
    width, program = program_of(rng, channels, taps, states)
    values = rng.normal(size=(60, width)).astype(np.float32)
    core = native(program, kernels, threads)
    core.run(step_of(values, slots=[3]))
    whole = core.view("out", 60).copy()

    chunks = [(0, 1), (1, 1), (2, 1), (3, 2), (5, 30), (35, 1), (36, 24)]
    for start, length in chunks:
        core.run(step_of(values[start : start + length], [(start, length, range(4))], slots=[5]))
        np.testing.assert_array_equal(core.view("out", length), whole[start : start + length])

    neighbours = rng.normal(size=(20, width)).astype(np.float32)
    core.run(step_of(values[:59], slots=[3]))
    mixed = np.concatenate([neighbours[:10], values[59:], neighbours[10:]])
    step = step_of(mixed, [(0, 10, [4]), (59, 1, range(4)), (0, 10, [5])], slots=[0, 3, 7])
    core.run(step)
    np.testing.assert_array_equal(core.view("out", 21)[10], whole[59])


def test_chunked_steps_equal_reference(rng, kernels):
    width, program = program_of(rng, 21, 4, 5)
    values = rng.normal(size=(2, 40, width)).astype(np.float32)
    core, truth = native(program, kernels, threads=3), truth_of(program)
    for start, length in ((0, 1), (1, 2), (3, 20), (23, 17)):
        rows = values[:, start : start + length].reshape(-1, width)
        step = step_of(
            rows, [(start, length, range(3)), (start, length, range(3, 6))], slots=[6, 2]
        )
        core.run(step)
        truth.run(step)
        np.testing.assert_allclose(
            core.view("out", 2 * length), truth.view("out", 2 * length), rtol=1e-4, atol=1e-5
        )


def test_a_new_sequence_starts_from_zeros_whatever_its_slot_held(rng, kernels):
    width, program = program_of(rng, 21, 4, 5)
    values = rng.normal(size=(9, width)).astype(np.float32)
    core = native(program, kernels)
    core.run(step_of(values))
    fresh = core.view("out", 9).copy()
    core.run(step_of(np.full((9, width), np.nan, np.float32)))
    core.run(step_of(values))
    np.testing.assert_array_equal(core.view("out", 9), fresh)


def test_programs_with_states_demand_a_slot_per_sequence(rng):
    width, program = program_of(rng, 8, 4, 2)
    values = np.zeros((4, width), np.float32)
    with pytest.raises(ValueError, match="state_slots must be positive"):
        native(program, state_slots=0)
    core = native(program, state_slots=4)
    sequences = [(0, 2, [0]), (0, 2, [1])]
    with pytest.raises(ValueError, match="state slot 4 of 4"):
        core.run(step_of(values, sequences, slots=[0, 4]))
    with pytest.raises(ValueError, match="state slot 1 is given to two sequences"):
        core.run(step_of(values, sequences, slots=[1, 1]))
    with pytest.raises(ValueError, match="slots must not be negative"):
        core.run(step_of(values, sequences, slots=[-1, 1]))
    assert core.slot_bytes == 4 * 8 * (3 + 2)
