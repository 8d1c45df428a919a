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


@pytest.mark.parametrize("width", [1, 5, 8, 100])
def test_silu_gate_equals_reference(rng, kernels, width):
    values = (rng.normal(size=(5, 2 * width)) * 20).astype(np.float32)
    program = [*feed(2 * width), ops.SiluGate("in", "out")]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize(("head_dim", "dims"), [(2, 2), (8, 4), (64, 64), (80, 20), (16, 16)])
def test_rotary_equals_reference(rng, kernels, head_dim, dims):
    heads, rows = 3, 11
    values = rng.normal(size=(rows, 2 + heads * head_dim + 1)).astype(np.float32)
    angles = np.outer(np.arange(4096), 1 / 100 ** (np.arange(dims // 2) / dims))
    cosine, sine = np.cos(angles).astype("f4"), np.sin(angles).astype("f4")
    program = [*feed(values.shape[1]), ops.Rotary("in", 2, heads, head_dim, cosine, sine)]
    step = step_of(values, [(5, 4, [3]), (100, 7, range(8))])
    ours, truth = run_both(program, step, "in", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1e-6)
    assert not np.allclose(ours, values)
    np.testing.assert_array_equal(ours[:, :2], values[:, :2])


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
