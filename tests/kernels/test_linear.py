import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.kernels.programs import available, feed, native, packed, run_both, step_of
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
def test_packing_keeps_every_code(rng, fmt, outputs, inputs):
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
    """What each row of int4 weights counts in: its numbers fit 16 bits, 24 groups' sum 32."""
    blocks = data.reshape(outputs, -1, BLOCK_BYTES[fmt])
    halves = 2 if fmt == "Q4_1" else 1
    numbers = np.ascontiguousarray(blocks[:, :, : 2 * halves]).view(np.float16).astype(np.float64)
    scales = numbers[..., 0]
    centres = numbers[..., 1] + 8 * scales if fmt == "Q4_1" else np.zeros_like(scales)
    minima = np.abs(centres - 8 * scales).max(axis=1) / (32767 - 4.5)
    largest = np.maximum(np.abs(scales), np.abs(centres)).max(axis=1) / 32767
    sums = 127 * 32 * (8 * np.abs(scales) + np.abs(centres))
    panels = [sums[:, at : at + 24].sum(axis=1) for at in range(0, sums.shape[1], 24)]
    return np.max([minima, largest, np.max(panels, axis=0) / (2**31 - 2**20)], axis=0)


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
        # Half a step, and what rounding scales loses.
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
@pytest.mark.parametrize(
    ("inputs", "places"),
    [(996, [0]), (996, [767, 768]), (996, [1, 2, 3, 5, 40, 995]), (800, [3, 799]), (31, [30])],
)
def test_large_inputs_leave_the_others_their_precision(rng, kernels, kind, rows, inputs, places):
    """Inputs of 60 among ones: on a scale that 8 bits of them share, the others would be lost."""
    weights = packed(kind, rng.normal(size=(11, inputs)).astype(np.float32))
    values = rng.uniform(0.5, 1.0, size=(rows, inputs)).astype(np.float32)
    values[:, places] = rng.choice([-60.0, 60.0, 7.0], size=(rows, len(places)))
    program = [*feed(inputs), ops.Linear("in", "out", weights)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=1e-3)
    exact = values.astype(np.float64) @ weights.unpack().T.astype(np.float64)
    # Inputs err by half a scale at most, a third of that on average, over weights around one.
    scale = 4 * np.abs(values).mean(axis=1, keepdims=True) / 127
    assert (np.abs(ours - exact) < scale / 3 * np.sqrt(inputs) * 4).all()


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
def test_quantised_linear_holds_extreme_codes(kernels, kind):
    """All weights at their limits but one: the largest sums of a group."""
    matrix = np.full((8, 64), 15.0, np.float32)
    matrix[:, 0] = 0.0  # keeps the int4 minimum at zero, so the other codes are 15
    values = np.full((6, 64), 127.0, np.float32)
    program = [*feed(64), ops.Linear("in", "out", packed(kind, matrix))]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)


@pytest.mark.parametrize("numbers", [(1.0, -8.0), (1.0, 0.0), (65504.0, 65504.0), (-65504.0, 9.0)])
@pytest.mark.parametrize("code", [0, 15])
@pytest.mark.parametrize("panel", [0, 3])
def test_int4_sums_hold_extreme_codes(kernels, numbers, code, panel):
    """All codes of a panel at their limits and of one sign: the largest sum of 32 bits."""
    block = np.array(numbers, np.float16).tobytes() + bytes([code * 17] * 16)
    weights = _native.Linear("int4", 9, 3072)
    weights.pack(0, 9, "Q4_1", np.frombuffer(block * (9 * 96), np.uint8))
    # As many zeros as make a code of 127 of what is not zero.
    values = np.zeros((7, 3072), np.float32)
    values[:, panel * 768 : (panel + 1) * 768] = 127.001
    values[3] *= -1
    program = [*feed(3072), ops.Linear("in", "out", weights)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-6, atol=1e-6 * 65504)


@pytest.mark.parametrize("numbers", [(1.0, -8.0), (-1.0, 8.0), (1.0, -15.3)])
@pytest.mark.parametrize("code", [0, 15])
@pytest.mark.parametrize("rows", [1, 7])
def test_int4_minima_hold_one_large_group(rng, kernels, numbers, code, rows):
    """A group whose minimum alone decides in what its row counts, among 24 small ones."""
    blocks = random_blocks(rng, "Q4_1", 9, 800).reshape(9, 25, 20)
    small = rng.uniform(1e-3, 2e-3, size=(9, 25, 2)).astype(np.float16)
    blocks[:, :, :4] = small.view(np.uint8)
    blocks[:, 24, :4] = np.array(numbers, np.float16).view(np.uint8)
    blocks[:, 24, 4:] = code * 17
    weights = _native.Linear("int4", 9, 800)
    weights.pack(0, 9, "Q4_1", blocks.reshape(-1))
    values = rng.normal(size=(rows, 800)).astype(np.float32)
    program = [*feed(800), ops.Linear("in", "out", weights)]
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=2e-5, atol=1e-3)


@pytest.mark.skipif(not available("avx512"), reason="this processor has no AVX-512")
def test_instruction_sets_agree_to_the_bit(rng):
    """So that a cache or an answer does not hang on the machine: sums have one order."""
    weights = {kind: packed(kind, rng.normal(size=(37, 576)).astype(np.float32)) for kind in KINDS}
    values = np.random.default_rng(1431).normal(size=(190, 576)).astype(np.float32)
    for kind, matrix in weights.items():
        results = []
        for kernels in ("avx2", "avx512"):
            core = native([*feed(576), ops.Linear("in", "out", matrix)], kernels)
            core.run(step_of(values))
            results.append(core.view("out", 190).copy())
        np.testing.assert_array_equal(*results, err_msg=kind)


@pytest.mark.parametrize("fmt", ["Q4_0", "Q4_1"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_scale_breaks_its_output_alone(rng, kernels, fmt, broken):
    data = random_blocks(rng, fmt, 9, 96)
    at = (4 * 3 + 1) * BLOCK_BYTES[fmt]  # of the fifth output the second group
    data[at : at + 2] = np.array([broken], np.float16).view(np.uint8)
    weights = _native.Linear("int4", 9, 96)
    weights.pack(0, 9, fmt, data)
    core = native([*feed(96), ops.Linear("in", "out", weights)], kernels)
    core.run(step_of(rng.normal(size=(2, 96)).astype(np.float32)))
    assert np.isnan(core.view("out", 2)).any(axis=0).tolist() == [i == 4 for i in range(9)]


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_broken_weight_is_not_rounded_to_a_sound_one(kind, broken):
    matrix = np.ones((9, 96), np.float32)
    matrix[3, 40] = broken
    assert not np.isfinite(packed(kind, matrix).unpack()[3, 32:64]).any()
    assert np.isfinite(np.delete(packed(kind, matrix).unpack(), 3, axis=0)).all()


@pytest.mark.parametrize("kind", ["int4", "int8"])
@pytest.mark.parametrize("size", [1e-38, 1e-34, 1e-30])
def test_numbers_near_zero_keep_their_sign(kernels, kind, size):
    """What has no scale of full precision counts as zero, and never as something else."""
    matrix = np.linspace(-size, size, 32, dtype=np.float32)[None]
    unpacked = packed(kind, matrix).unpack()
    assert (np.abs(unpacked - matrix) <= size).all()
    values = np.zeros((1, 4000), np.float32)
    values[0, 7] = size
    program = [*feed(4000), ops.Linear("in", "out", packed(kind, np.ones((3, 4000), np.float32)))]
    core = native(program, kernels)
    core.run(step_of(values))
    assert ((core.view("out", 1) >= 0) & (core.view("out", 1) <= 1.01 * size)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_linear_lets_a_nan_through(kernels, kind):
    weights = packed(kind, np.ones((8, 64), np.float32))
    values = np.ones((3, 64), np.float32)
    values[1, 40] = np.nan
    core = native([*feed(64), ops.Linear("in", "out", weights)], kernels)
    core.run(step_of(values))
    assert np.isnan(core.view("out", 3)).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: _native.Linear("int3", 8, 32), "no weight kind is named 'int3'"),
        (lambda: _native.Linear("int4", 0, 32), "at least one input"),
        (lambda: packed("int4", np.ones((8, 32), "f4")).pack(1, 8, "F32", np.zeros(1024, "u1")),
         "packing 8 rows at 1 of 8"),
        (lambda: packed("int4", np.ones((8, 32), "f4")).pack(0, 8, "Q4_1", np.zeros(7, "u1")),
         "7 bytes given, 160 expected"),
        (lambda: packed("int8", np.ones((8, 32), "f4")).pack(0, 8, "Q4_1", np.zeros(160, "u1")),
         "keep their codes only in their own layout"),
        (lambda: packed("int4", np.ones((8, 33), "f4")).pack(0, 8, "Q4_1", np.zeros(160, "u1")),
         "33 inputs are not whole blocks"),
        (lambda: packed("int4", np.ones((8, 32), "f4")).pack(0, 8, "Q3_K", np.zeros(160, "u1")),
         "does not pack format Q3_K"),
    ],
)  # fmt: skip
def test_packing_refuses_what_does_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("num_bytes", [0, 1 << 20, 1 << 60])
def test_memory_made_ready_changes_no_matrix(rng, num_bytes):
    codes = rng.normal(size=(40, 64)).astype(np.float32)

    def new_matrix():
        matrix = _native.Linear("float32", 40, 64)
        matrix.pack(0, 40, "F32", codes.view(np.uint8).reshape(-1))
        return matrix

    memory = _native.WeightMemory(num_bytes)
    matrices = [new_matrix() for _ in range(300)]  # the smallest area has room for 204
    del memory
    matrices.append(new_matrix())
    assert all(np.array_equal(matrix.unpack(), codes) for matrix in matrices)


PREFAULT = """
import os, time
from yearling.kernels import _native

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
memory = _native.WeightMemory(64 << 20)
deadline = time.monotonic() + 30
while resident() < before + (60 << 20) and time.monotonic() < deadline:
    time.sleep(0.01)
ready = resident()
matrix = _native.Linear("float32", 1024, 1024)
del memory
kept = resident()
del matrix
print(ready - before >> 20, kept - before >> 20, resident() - before >> 20)
"""


def test_memory_is_prefaulted_and_given_back():
    pages = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not pages.exists() or "[never]" in pages.read_text():
        pytest.skip("this kernel makes no large pages, and others are not prefaulted")
    # A process of its own: what another test told the C library would change what it gives back.
    done = subprocess.run([sys.executable, "-c", PREFAULT], capture_output=True, text=True)
    ready, kept, left = map(int, done.stdout.split())
    assert ready >= 60
    assert kept < 16, "a matrix of 4 MiB lies in it"
    assert left < 8
