import dataclasses

import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, run_both, step_of
from yearling.kernels import ops

WIDTHS = [1, 7, 8, 33, 576]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [1, 40])
def test_rms_norm_equals_reference(rng, kernels, width, rows):
    values = (rng.normal(size=(rows, width)) * 10).astype(np.float32)
    weight = rng.normal(size=width).astype(np.float32)
    program = [*feed(width), ops.RMSNorm("in", "out", weight, 1e-5)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_layer_norm_equals_reference(rng, kernels, width, has_bias):
    values = (rng.normal(size=(9, width)) + 3).astype(np.float32)
    weight, bias = rng.normal(size=(2, width)).astype(np.float32)
    program = [*feed(width), ops.LayerNorm("in", "out", weight, bias if has_bias else None, 1e-5)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["int4", "int8", "float16", "float32"])
def test_embed_reads_rows_and_inject_replaces_them(rng, kernels, kind):
    table = packed(kind, rng.normal(size=(19, 40)).astype(np.float32))
    core = native([ops.Embed(table, "in"), ops.Inject("in")], kernels, vocabulary=19)
    step = step_of(np.zeros((4, 40), np.float32))
    step.tokens[:] = [18, 0, 7, 7]
    given = rng.normal(size=(1, 40)).astype(np.float32)
    rows = np.array([2], np.int32)
    core.run(dataclasses.replace(step, inject_rows=rows, inject_values=given))
    rows = core.view("in", 4)
    np.testing.assert_array_equal(rows[[0, 1, 3]], table.unpack()[[18, 0, 7]])
    np.testing.assert_array_equal(rows[2], given[0])


@pytest.mark.parametrize("wanted", [[], [0], [8, 3, 3]])
def test_gather_copies_the_wanted_rows(rng, kernels, wanted):
    values = rng.normal(size=(9, 12)).astype(np.float32)
    program = [*feed(12), ops.Gather("in", "out")]
    step = step_of(values, logit_rows=wanted)
    ours, _ = run_both(program, step, "out", kernels=kernels, rows=len(wanted))
    np.testing.assert_array_equal(ours, values[wanted])


@pytest.mark.parametrize("kind", ["rms", "layer"])
@pytest.mark.parametrize("head_dim", [1, 7, 8, 64, 80])
def test_head_norm_equals_reference(rng, kernels, kind, head_dim):
    heads = 3
    values = (rng.normal(size=(6, 2 + heads * head_dim + 1)) + 1).astype(np.float32)
    weight, bias = rng.normal(size=(2, head_dim)).astype(np.float32)
    bias = bias if kind == "layer" else None
    program = [
        *feed(values.shape[1]),
        ops.HeadNorm("in", 2, heads, head_dim, kind, weight, bias, 1e-5),
    ]
    ours, truth = run_both(program, step_of(values), "in", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours[:, [0, 1, -1]], values[:, [0, 1, -1]])


@pytest.mark.parametrize("norm", [ops.RMSNorm, ops.LayerNorm])
def test_norms_may_overwrite_their_input(rng, kernels, norm):
    values = rng.normal(size=(6, 37)).astype(np.float32)
    weight = rng.normal(size=37).astype(np.float32)
    settings = (weight, 1e-5) if norm is ops.RMSNorm else (weight, None, 1e-5)
    core = native([*feed(37), norm("in", "out", *settings), norm("in", "in", *settings)], kernels)
    core.run(step_of(values))
    np.testing.assert_array_equal(core.view("in", 6), core.view("out", 6))


def test_embed_scales_rows(rng, kernels):
    table = packed("float32", rng.normal(size=(19, 13)).astype(np.float32))
    core = native([ops.Embed(table, "in", 2.5)], kernels, vocabulary=19)
    step = dataclasses.replace(step_of(np.zeros((1, 13), "f4")), inject_rows=None)
    step.tokens[:] = [18]
    core.run(step)
    np.testing.assert_array_equal(core.view("in", 1)[0], table.unpack()[18] * np.float32(2.5))


@pytest.mark.parametrize("width", WIDTHS)
def test_copy_scale_and_add_equal_reference(rng, kernels, width):
    values = rng.normal(size=(5, width + 2)).astype(np.float32)
    program = [
        *feed(width + 2),
        ops.Copy("in", "part", 1, width),
        ops.Scale("part", "scaled", -1.7),
        ops.Scale("scaled", "scaled", 2.0),
        ops.Add("part", "scaled", 0.3),
        ops.Add("part", "scaled"),
    ]
    ours, truth = run_both(program, step_of(values), "scaled", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    ours, _ = run_both(program, step_of(values), "part", kernels=kernels)
    np.testing.assert_array_equal(ours, values[:, 1:-1])


@pytest.mark.parametrize("kind", ["mean", "first", "last"])
@pytest.mark.parametrize("is_normalised", [True, False])
@pytest.mark.parametrize("width", [1, 33])
def test_pool_equals_reference(rng, kernels, kind, is_normalised, width):
    values = rng.normal(size=(30, width)).astype(np.float32)
    program = [*feed(width), ops.Pool("in", "out", kind, is_normalised)]
    step = step_of(values, [(0, 3, [0]), (0, 1, [1]), (0, 26, [2, 3])], [2, 3, 29, 4])
    ours, truth = run_both(program, step, "out", kernels=kernels, rows=4, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(ours[2], ours[3])  # one sequence, whichever row is named
    if is_normalised:
        np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, rtol=1e-6)


def test_pool_of_zeros_stays_zero(kernels):
    core = native([*feed(5), ops.Pool("in", "out", "mean", True)], kernels)
    core.run(step_of(np.zeros((3, 5), np.float32), logit_rows=[0]))
    np.testing.assert_array_equal(core.view("out", 1), 0)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (ops.HeadNorm("in", 1, 2, 4, "rms", np.ones(4, "f4"), None, 1e-5), "lie within"),
        (ops.HeadNorm("in", 0, 2, 4, "rms", np.ones(3, "f4"), None, 1e-5), "head_dim entries"),
        (ops.HeadNorm("in", 0, 2, 4, "group", np.ones(4, "f4"), None, 1e-5), "no norm is named"),
        (ops.Copy("in", "out", 5, 4), "must lie within"),
        (ops.Add("rows", "in"), "same shape"),
        (ops.Pool("rows", "out", "mean", True), "token rows to logit rows"),
        (ops.Pool("in", "out", "max", True), "no pooling is named 'max'"),
    ],
)
def test_rows_refuse_what_does_not_fit(op, message):
    with pytest.raises(ValueError, match=message):
        native([*feed(8), ops.Gather("in", "rows"), op])
