import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, run_both, step_of
from yearling.kernels import _native, ops
from yearling.models.checkpoint.formats import StoredTensor, to_float32

KINDS = ["int4", "int8", "float16", "bfloat16", "float32"]
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34}
KIND_OF = {"Q4_0": "int4", "Q4_1": "int4", "Q8_0": "int8"}


def random_blocks(rng, fmt, rows, inputs):
    """Blocks of random codes with finite scales, as bytes."""
    size = BLOCK_BYTES[fmt]
    blocks = rng.integers(0, 256, (rows * inputs // 32, size), dtype=np.uint8)
    halves = 2 if fmt == "Q4_1" else 1
    scales = rng.normal(0, 0.1, (len(blocks), halves)).astype(np.float16)
    blocks[:, : 2 * halves] = scales.view(np.uint8)
    return blocks.reshape(-1)


@pytest.mark.parametrize("fmt", BLOCK_BYTES)
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 32), (8, 64), (13, 96), (24, 576)])
def test_packing_keeps_every_code_and_scale(rng, fmt, outputs, inputs):
    data = random_blocks(rng, fmt, outputs, inputs)
    weights = _native.Linear(KIND_OF[fmt], outputs, inputs)
    weights.pack(0, outputs, fmt, data)
    expected = to_float32(StoredTensor(fmt, (outputs, inputs), data))
    if fmt == "Q8_0":
        np.testing.assert_array_equal(weights.unpack(), expected)
    else:
        # Codes are kept; slope and centre are rounded to half a unit each, and a code reaches 8.
        error = np.abs(weights.unpack().astype(np.float64) - expected)
        assert (error <= 4.6 * units_of(fmt, data, outputs)[:, None]).all()


def units_of(fmt, data, outputs):
    """What each row of int4 weights counts in: no sum of 24 groups may leave 32 bits."""
    blocks = data.reshape(outputs, -1, BLOCK_BYTES[fmt])
    halves = 2 if fmt == "Q4_1" else 1
    numbers = np.ascontiguousarray(blocks[:, :, : 2 * halves]).view(np.float16).astype(np.float64)
    scales = numbers[..., 0]
    centres = numbers[..., 1] + 8 * scales if fmt == "Q4_1" else np.zeros_like(scales)
    largest = np.maximum(np.abs(scales), np.abs(centres)).max(axis=1) / 32767
    sums = 127 * 32 * (8 * np.abs(scales) + np.abs(centres))
    panels = [sums[:, at : at + 24].sum(axis=1) for at in range(0, sums.shape[1], 24)]
    return np.maximum(largest, np.max(panels, axis=0) / (2**31 - 2**20))


def test_packing_in_parts_equals_packing_at_once(rng):
    data = random_blocks(rng, "Q4_1", 21, 64)
    whole, parts = (_native.Linear("int4", 21, 64) for _ in range(2))
    whole.pack(0, 21, "Q4_1", data)
    row = len(data) // 21
    for first, rows in ((0, 5), (5, 9), (14, 7)):
        parts.pack(first, rows, "Q4_1", data[first * row : (first + rows) * row])
    np.testing.assert_array_equal(whole.unpack(), parts.unpack())


@pytest.mark.parametrize("fmt", ["F32", "F16", "BF16"])
def test_packing_plain_formats_keeps_values(rng, fmt):
    matrix = rng.normal(size=(9, 33)).astype(np.float32)
    raw = {
        "F32": matrix,
        "F16": matrix.astype(np.float16),
        "BF16": (matrix.view(np.uint32) >> 16).astype(np.uint16),
    }[fmt]
    data = np.ascontiguousarray(raw).view(np.uint8).reshape(-1)
    weights = _native.Linear({"F16": "float16", "BF16": "bfloat16"}.get(fmt, "float32"), 9, 33)
    weights.pack(0, 9, fmt, data)
    np.testing.assert_array_equal(
        weights.unpack(), to_float32(StoredTensor(fmt, matrix.shape, data))
    )


@pytest.mark.parametrize(("kind", "steps"), [("int4", 15), ("int8", 254)])
def test_quantising_errs_by_half_a_step_at_most(rng, kind, steps):
    matrix = rng.normal(size=(11, 70)).astype(np.float32)
    error = np.abs(packed(kind, matrix).unpack() - matrix)
    for group in range(0, 70, 32):
        part = matrix[:, group : group + 32]
        if kind == "int4":
            span = part.max(axis=1) - part.min(axis=1)
        else:
            span = 2 * np.abs(part).max(axis=1)
        # Half a step, and what binary16 scales and minima lose.
        bound = span / steps * 0.5 + np.abs(part).max(axis=1) * 2**-9
        assert (error[:, group : group + 32] <= bound[:, None]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 5, 6, 7, 19])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 31), (8, 32), (65, 96), (30, 257)])
def test_linear_equals_reference(rng, kernels, kind, rows, outputs, inputs):
    weights = packed(kind, rng.normal(size=(outputs, inputs)).astype(np.float32))
    bias = rng.normal(size=outputs).astype(np.float32)
    values = rng.normal(size=(rows, inputs)).astype(np.float32)
    program = [*feed(inputs), ops.Linear("in", "out", weights, bias)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    # Codes round half-way cases alike; what is left is the order of float32 additions.
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=2e-5 * np.sqrt(inputs))


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("rows", [1, 6, 7, 13])
@pytest.mark.parametrize("places", [[0], [767, 768], [1, 2, 3, 5, 40, 995]])
def test_large_inputs_leave_the_others_their_precision(rng, kernels, kind, rows, places):
    """Inputs of 60 among ones: on a scale that 8 bits of them share, the others would be lost."""
    weights = packed(kind, rng.normal(size=(11, 996)).astype(np.float32))
    values = rng.uniform(0.5, 1.0, size=(rows, 996)).astype(np.float32)
    values[:, places] = rng.choice([-60.0, 60.0, 7.0], size=(rows, len(places)))
    program = [*feed(996), ops.Linear("in", "out", weights)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=1e-3)
    exact = values.astype(np.float64) @ weights.unpack().T.astype(np.float64)
    # Inputs err by half a scale at most, a third of that on average, over weights around one.
    scale = 4 * np.abs(values).mean(axis=1, keepdims=True) / 127
    assert (np.abs(ours - exact) < scale / 3 * np.sqrt(996) * 4).all()


@pytest.mark.parametrize("kind", KINDS)
def test_linear_accumulates_into_its_columns(rng, kernels, kind):
    first = packed(kind, rng.normal(size=(20, 64)).astype(np.float32))
    second = packed(kind, rng.normal(size=(9, 64)).astype(np.float32))
    values = rng.normal(size=(7, 64)).astype(np.float32)
    program = [
        *feed(64),
        ops.Linear("in", "out", first),
        ops.Linear("in", "out", second, column=20),
        ops.Linear("in", "out", second, column=5, accumulates=True),
    ]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_linear_rows_do_not_depend_on_their_company(rng, kernels, kind):
    weights = packed(kind, rng.normal(size=(100, 160)).astype(np.float32))
    values = rng.normal(size=(230, 160)).astype(np.float32)
    program = [*feed(160), ops.Linear("in", "out", weights)]
    core = native(program, kernels, threads=3)
    core.run(step_of(values))
    together = core.view("out", 230).copy()
    for row, count in ((0, 1), (1, 1), (97, 2), (100, 3), (150, 8), (229, 1)):
        core.run(step_of(values[row : row + count]))
        np.testing.assert_array_equal(core.view("out", count), together[row : row + count])


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("weight", [-8.0, 7.0])
@pytest.mark.parametrize("value", [-127.0, 127.0])
@pytest.mark.parametrize("columns", [64, 768, 1600])
def test_quantised_linear_holds_extreme_codes(kernels, kind, weight, value, columns):
    """All codes at their limits, and of one sign: the largest sums the integer lanes must hold."""
    matrix = np.full((11, columns), weight, np.float32)
    matrix[:, ::32], matrix[:, 1::32] = -8.0, 7.0  # so that a scale is 1 and codes are whole
    values = np.full((7, columns), value, np.float32)
    program = [*feed(columns), ops.Linear("in", "out", packed(kind, matrix))]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5, atol=1.0)
