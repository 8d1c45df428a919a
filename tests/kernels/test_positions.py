import dataclasses
import math

import numpy as np
import pytest

from tests.kernels.programs import feed, native, run_both, step_of
from yearling.kernels import ops
from yearling.kernels.reference_operations import stretched_frequencies

CHANNELS = ["token", "span", "block"]
# Inside a prefix, across its end, long behind it, and without one.
SEQUENCES = [(5, 4, [3]), (96, 7, range(8)), (200, 2, range(8, 24)), (3, 3, [30])]
PREFIXES = [20, 99, 50, 0]


def frequencies(dims, base=100.0):
    return (base ** (-np.arange(0, dims, 2) / dims)).astype(np.float32)


def test_channels_count_as_documented(kernels):
    """A prefix of three tokens, then three more, with a frequency of one: cosines tell."""
    expected = {
        "token": [0, 1, 2, 3, 4, 5],
        "span": [0, 1, 2, 2, 2, 2],
        "block": [0, 0, 0, 1, 2, 3],
    }
    for channel, positions in expected.items():
        program = [*feed(1), ops.Angles("angles", np.ones(1, np.float32), channel=channel)]
        step = step_of(np.zeros((6, 1), np.float32), prefixes=[3])
        ours, truth = run_both(program, step, "angles", kernels=kernels)
        np.testing.assert_array_equal(ours[:, 0], np.cos(np.array(positions, "f8")).astype("f4"))
        np.testing.assert_allclose(ours, truth, rtol=1e-7)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("dims", [2, 20, 64])
def test_angles_equal_reference(kernels, channel, dims):
    program = [*feed(1), ops.Angles("angles", frequencies(dims), 1.3, channel)]
    values = np.zeros((16, 1), np.float32)
    ours, truth = run_both(program, step_of(values, SEQUENCES, prefixes=PREFIXES), "angles",
                           kernels=kernels, threads=3)  # fmt: skip
    np.testing.assert_allclose(ours, truth, atol=1e-7)


def test_dynamic_base_grows_beyond_the_trained_length():
    stretch = ops.Stretch("dynamic_ntk", 10_000.0, 2048, 2.0)
    same, _ = stretched_frequencies(stretch, 64, 2048)
    np.testing.assert_allclose(same, 10_000.0 ** (-np.arange(32) / 32), rtol=1e-6)
    twice, _ = stretched_frequencies(stretch, 64, 4096)
    base = 10_000 * (2 * 2 - 1) ** (64 / 62)
    np.testing.assert_allclose(twice, base ** (-np.arange(32) / 32), rtol=1e-6)


@pytest.mark.parametrize(
    ("length", "growth"), [(100, 1), (2048, 1), (2049, 3), (4096, 3), (4097, 7)]
)
def test_stepped_base_grows_at_doubled_lengths(length, growth):
    stretch = ops.Stretch("stepped_ntk", 10_000.0, 2048, has_length_factor=True)
    values, factor = stretched_frequencies(stretch, 128, length)
    base = 10_000 * growth ** (128 / 126)
    np.testing.assert_allclose(values, base ** (-np.arange(64) / 64), rtol=1e-6)
    assert factor == pytest.approx(max(0.1 * math.log(length / 2048) + 1, 1))


@pytest.mark.parametrize("kind", ["dynamic_ntk", "stepped_ntk"])
@pytest.mark.parametrize("has_length_factor", [False, True])
def test_stretched_angles_equal_reference(kernels, kind, has_length_factor):
    stretch = ops.Stretch(kind, 100.0, 48, 1.5, has_length_factor)
    program = [*feed(1), ops.Angles("angles", frequencies(20), stretch=stretch)]
    step = step_of(np.zeros((16, 1), np.float32), SEQUENCES, prefixes=PREFIXES)
    ours, truth = run_both(program, step, "angles", kernels=kernels)
    np.testing.assert_allclose(ours, truth, atol=1e-6)


@pytest.mark.parametrize("layout", ["half", "interleaved"])
@pytest.mark.parametrize(
    ("head_dim", "dims", "offset"),
    [(2, 2, 0), (8, 4, 0), (64, 64, 0), (80, 20, 0), (128, 64, 64), (13, 6, 5)],
)
def test_rotary_equals_reference(rng, kernels, layout, head_dim, dims, offset):
    heads = 3
    values = rng.normal(size=(11, 2 + heads * head_dim + 1)).astype(np.float32)
    program = [
        *feed(values.shape[1]),
        ops.Angles("angles", frequencies(dims)),
        ops.Rotary("in", "angles", 2, heads, head_dim, layout, offset),
    ]
    step = step_of(values, [(5, 4, [3]), (100, 7, range(8))])
    ours, truth = run_both(program, step, "in", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours, values)
    np.testing.assert_array_equal(ours[:, :2], values[:, :2])
    heads_before = values[:, 2:-1].reshape(11, heads, head_dim)
    heads_after = ours[:, 2:-1].reshape(11, heads, head_dim)
    still = [d for d in range(head_dim) if not offset <= d < offset + dims]
    np.testing.assert_array_equal(heads_after[..., still], heads_before[..., still])


def test_rotary_layouts_pair_different_dimensions(kernels):
    """A quarter turn moves a one to the place of its partner."""
    quarter = np.full(2, math.pi / 2, np.float32)
    for layout, partner in (("half", 2), ("interleaved", 1)):
        program = [
            *feed(4),
            ops.Angles("angles", quarter),
            ops.Rotary("in", "angles", 0, 1, 4, layout),
        ]
        step = step_of(np.array([[1, 0, 0, 0]], np.float32), [(1, 1, [0])])
        ours, _ = run_both(program, step, "in", kernels=kernels)
        np.testing.assert_allclose(ours[0], np.eye(4)[partner], atol=1e-6)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("accumulates", [True, False])
def test_add_positions_equals_reference(rng, kernels, channel, accumulates):
    values = rng.normal(size=(16, 19)).astype(np.float32)
    table = rng.normal(size=(4098, 19)).astype(np.float32)
    program = [*feed(19), ops.AddPositions("in", table, 2, channel, accumulates)]
    step = step_of(values, SEQUENCES, prefixes=PREFIXES)
    ours, truth = run_both(program, step, "in", kernels=kernels)
    np.testing.assert_array_equal(ours, truth.astype(np.float32))


def test_log_scale_stretches_only_beyond_the_trained_length(rng, kernels):
    values = rng.normal(size=(16, 12)).astype(np.float32)
    program = [*feed(12), ops.LogScale("in", 1, 9, 100)]
    step = step_of(values, SEQUENCES)
    ours, truth = run_both(program, step, "in", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-6)
    # Rows 0-3 are tokens 5-8, 4-10 are 96-102, 11-12 are 200 and 201.
    np.testing.assert_array_equal(ours[:8], values[:8])
    np.testing.assert_allclose(ours[11, 1:10], values[11, 1:10] * math.log(201) / math.log(100),
                               rtol=1e-6)  # fmt: skip
    np.testing.assert_array_equal(ours[11, [0, 10, 11]], values[11, [0, 10, 11]])


def test_positions_do_not_depend_on_chunks(rng, kernels):
    stretch = ops.Stretch("dynamic_ntk", 100.0, 10, 1.5)
    values = rng.normal(size=(30, 8)).astype(np.float32)
    program = [
        *feed(8),
        ops.Angles("angles", frequencies(8), stretch=stretch),
        ops.Rotary("in", "angles", 0, 1, 8),
        ops.LogScale("in", 0, 8, 10),
    ]
    core = native(program, kernels, threads=3)
    core.run(step_of(values, prefixes=[12]))
    whole = core.view("in", 30).copy()
    for start, length in ((0, 7), (7, 8), (15, 1), (16, 14)):
        step = step_of(values[start : start + length], [(start, length, [0, 1])], prefixes=[12])
        core.run(step)
        np.testing.assert_array_equal(core.view("in", length), whole[start : start + length])


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ops.AddPositions("in", np.zeros((63, 8), "f4")), "fewer rows than context"),
        (ops.AddPositions("in", np.zeros((64, 8), "f4"), 1), "fewer rows than context"),
        (ops.AddPositions("in", np.zeros((64, 7), "f4")), "as wide as the table"),
        (ops.Angles("angles", np.ones(4, "f4"), channel="word"), "no channel is named 'word'"),
        (ops.Angles("angles", np.ones(1, "f4"), stretch=ops.Stretch("dynamic_ntk", 1.0, 8)),
         "at least 4 dims"),
        (ops.LogScale("in", 4, 5, 100), "must lie within"),
        (ops.LogScale("in", 0, 8, 1), "exceed 1"),
    ],
)  # fmt: skip
def test_positions_refuse_what_does_not_fit(op, message):
    with pytest.raises(ValueError, match=message):
        native([*feed(8), op], context=64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 3}, "heads must lie within the buffer"),
        ({"offset": 1}, "lie within head_dim"),
        ({"layout": "spiral"}, "no rotary layout is named 'spiral'"),
    ],
)
def test_rotary_refuses_what_does_not_fit(change, message):
    rotary = ops.Rotary("in", "angles", 0, 2, 4)
    angles = ops.Angles("angles", np.ones(2, "f4"))
    with pytest.raises(ValueError, match=message):
        native([*feed(8), angles, dataclasses.replace(rotary, **change)])
