import numpy as np
import pytest

from tests.kernels.programs import feed, native, run_both, step_of
from yearling.kernels import ops
from yearling.kernels.reference import ReferenceProgram

SHAPES = [(1, 1, 8), (3, 1, 16), (9, 3, 64), (4, 4, 20), (16, 1, 33)]  # heads, kv heads, size


def program_of(heads, kv_heads, size):
    width = (heads + 2 * kv_heads) * size
    return width, [
        *feed(width),
        ops.WriteKV("in", 0, heads * size, (heads + kv_heads) * size, kv_heads, size),
        ops.Attention("in", "out", 0, heads, kv_heads, size, size**-0.5),
    ]


@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
@pytest.mark.parametrize("cache_type", ["float32", "float16"])
def test_attention_equals_reference(rng, kernels, heads, kv_heads, size, cache_type):
    width, program = program_of(heads, kv_heads, size)
    values = rng.normal(size=(1 + 16 + 45, width)).astype(np.float32)
    step = step_of(values, [(0, 1, [5]), (0, 16, [9]), (0, 45, [3, 60, 7])])
    ours, truth = run_both(program, step, "out", kernels=kernels, cache_type=cache_type, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cache_type", ["float32", "float16"])
def test_attention_over_a_long_cache_equals_reference(rng, kernels, cache_type):
    width, program = program_of(6, 2, 16)
    core = native(program, kernels, threads=3, cache_type=cache_type)
    truth = ReferenceProgram(program, cache_blocks=64, cache_type=cache_type)
    blocks = rng.permutation(64)[:50].tolist()
    for start, length in ((0, 400), (400, 380), (780, 1), (781, 3)):
        values = rng.normal(size=(length, width)).astype(np.float32)
        step = step_of(values, [(start, length, blocks)])
        core.run(step)
        truth.run(step)
        np.testing.assert_allclose(
            core.view("out", length), truth.view("out", length), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize("threads", [1, 3])
def test_attention_is_bit_equal_whatever_the_chunks_and_neighbours(rng, kernels, threads):
    """Alone in one step, in chunks, token by token, and beside others: the same bits."""
    width, program = program_of(9, 3, 64)
    values = rng.normal(size=(300, width)).astype(np.float32)
    core = native(program, kernels, threads, cache_type="float16")
    core.run(step_of(values, [(0, 300, range(19))]))
    whole = core.view("out", 300).copy()

    chunks = [(0, 7), (7, 100), (107, 1), (108, 1), (109, 150), (259, 1), (260, 40)]
    for start, length in chunks:
        blocks = range(20, 39)
        core.run(step_of(values[start : start + length], [(start, length, blocks)]))
        np.testing.assert_array_equal(core.view("out", length), whole[start : start + length])

    neighbours = rng.normal(size=(40, width)).astype(np.float32)
    mixed = np.concatenate([neighbours[:20], values[299:], neighbours[20:]])
    core.run(step_of(mixed, [(0, 20, [40, 41]), (299, 1, range(20, 39)), (0, 20, [42, 43])]))
    np.testing.assert_array_equal(core.view("out", 41)[20], whole[299])


def test_attention_never_reads_what_others_left_in_its_blocks(rng, kernels):
    width, program = program_of(4, 2, 16)
    values = rng.normal(size=(20, width)).astype(np.float32)
    core = native(program, kernels)
    core.run(step_of(np.full((32, width), np.nan, np.float32), [(0, 32, [0, 1])]))
    core.run(step_of(values, [(0, 20, [0, 1])]))
    after_nan = core.view("out", 20).copy()
    core.run(step_of(values, [(0, 20, [2, 3])]))
    np.testing.assert_array_equal(after_nan, core.view("out", 20))
    assert np.isfinite(after_nan).all()


def test_attention_lets_a_nan_of_its_own_through(rng, kernels):
    width, program = program_of(4, 2, 16)
    values = rng.normal(size=(20, width)).astype(np.float32)
    values[5, 4 * 16] = np.nan  # a key
    core = native(program, kernels)
    core.run(step_of(values))
    is_nan = np.isnan(core.view("out", 20)).any(axis=1)
    assert is_nan.tolist() == [False] * 5 + [True] * 15
