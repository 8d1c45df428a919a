import dataclasses

import numpy as np
import pytest

from tests.kernels.programs import feed, native, run_both, step_of, tables_of, truth_of
from yearling.kernels import ops

SHAPES = [(1, 1, 8), (3, 1, 16), (9, 3, 64), (4, 4, 20), (16, 1, 33)]  # heads, kv heads, size


def program_of(heads, kv_heads, size, **extras):
    width = (heads + 2 * kv_heads) * size
    return width, [
        *feed(width),
        ops.WriteKV("in", 0, heads * size, (heads + kv_heads) * size, kv_heads, size),
        ops.Attention("in", "out", 0, heads, kv_heads, size, size**-0.5, **extras),
    ]


def slopes_of(heads):
    return (2.0 ** -np.arange(1, heads + 1)).astype(np.float32)


def extras_of(name, heads):
    return {
        "window": {"window": 20},
        "narrow": {"window": 1},
        "prefix": {"sees_prefix": True},
        "cap": {"soft_cap": 2.0},
        "slopes": {"slopes": slopes_of(heads)},
        "all": {"window": 37, "soft_cap": 5.0, "slopes": slopes_of(heads)},
        "prefix_slopes": {"sees_prefix": True, "slopes": slopes_of(heads)},
    }[name]


# And how far results may be off: weights of attention are rounded to bfloat16 too.
CACHE_TYPES = {"float32": 1e-5, "float16": 1e-5, "bfloat16": 5e-3}

EXTRAS = ["window", "narrow", "prefix", "cap", "slopes", "all", "prefix_slopes"]


@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_attention_equals_reference(rng, kernels, heads, kv_heads, size, cache_type):
    width, program = program_of(heads, kv_heads, size)
    values = rng.normal(size=(1 + 16 + 45, width)).astype(np.float32)
    step = step_of(values, [(0, 1, [5]), (0, 16, [9]), (0, 45, [3, 60, 7])])
    ours, truth = run_both(program, step, "out", kernels=kernels, cache_type=cache_type, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=CACHE_TYPES[cache_type])


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_attention_over_a_long_cache_equals_reference(rng, kernels, cache_type):
    width, program = program_of(6, 2, 16)
    core = native(program, kernels, threads=3, cache_type=cache_type)
    truth = truth_of(program, cache_type)
    blocks = rng.permutation(64)[:50].tolist()
    for start, length in ((0, 400), (400, 380), (780, 1), (781, 3)):
        values = rng.normal(size=(length, width)).astype(np.float32)
        step = step_of(values, [(start, length, blocks)])
        core.run(step)
        truth.run(step)
        np.testing.assert_allclose(
            core.view("out", length),
            truth.view("out", length),
            rtol=1e-4,
            atol=CACHE_TYPES[cache_type],
        )


@pytest.mark.parametrize("cache_type", ["float16", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_attention_is_bit_equal_whatever_the_chunks_and_neighbours(
    rng, kernels, threads, cache_type
):
    """Alone in one step, in chunks, token by token, and beside others: the same bits."""
    width, program = program_of(9, 3, 64)
    values = rng.normal(size=(300, width)).astype(np.float32)
    core = native(program, kernels, threads, cache_type=cache_type)
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


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("size", [1.0, 3e2, 3e4])
def test_a_key_seen_alone_gives_its_value_however_large_its_score(kernels, cache_type, size):
    width, program = program_of(2, 1, 16)
    values = np.full((1, width), size, np.float32)
    values[:, 3 * 16 :] = 3.0
    core = native(program, kernels, cache_type=cache_type)
    core.run(step_of(values))
    np.testing.assert_allclose(core.view("out", 1), 3.0, rtol=1e-6)


def seen_by_each_token(kernels, tokens, prefixes=None, **extras):
    """Queries of zero weigh all that they see alike: the mean of the positions seen."""
    values = np.zeros((tokens, 3), np.float32)
    values[:, 2] = np.arange(tokens)
    _, program = program_of(1, 1, 1, **extras)
    ours, truth = run_both(program, step_of(values, prefixes=prefixes), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)
    return ours[:, 0]


def test_a_window_counts_the_token_itself(kernels):
    seen = seen_by_each_token(kernels, 40, window=3)
    np.testing.assert_allclose(seen, [0, 0.5, *np.arange(1, 39)], rtol=1e-5)


def test_a_prefix_is_seen_by_all_of_its_tokens(kernels):
    seen = seen_by_each_token(kernels, 6, prefixes=[4], sees_prefix=True)
    np.testing.assert_allclose(seen, [1.5, 1.5, 1.5, 1.5, 2, 2.5], rtol=1e-5)


def test_a_slope_weighs_keys_by_their_distance(kernels):
    slopes = np.array([np.log(2)], np.float32)  # each step back halves the weight
    seen = seen_by_each_token(kernels, 3, slopes=slopes)
    np.testing.assert_allclose(seen, [0, 2 / 3, (2 * 1 + 4 * 2) / 7], rtol=1e-5)


def test_a_soft_cap_bounds_scores(kernels):
    """Scores of 0 and 1,000 become 0 and ln 3: weights of 1/4 and 3/4."""
    values = np.array([[1, 0, 0], [1, 1000, 1]], np.float32)
    _, program = program_of(1, 1, 1, soft_cap=float(np.log(3)))
    ours, _ = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours[1], 0.75, rtol=1e-5)


@pytest.mark.parametrize("extra", EXTRAS)
@pytest.mark.parametrize(("heads", "kv_heads", "size"), SHAPES)
@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_extras_equal_reference(rng, kernels, extra, heads, kv_heads, size, cache_type):
    width, program = program_of(heads, kv_heads, size, **extras_of(extra, heads))
    values = rng.normal(size=(1 + 16 + 75, width)).astype(np.float32)
    sequences = [(0, 1, [5]), (0, 16, [9]), (0, 75, [3, 60, 7, 1, 0])]
    step = step_of(values, sequences, prefixes=[1, 0, 33])
    ours, truth = run_both(program, step, "out", kernels=kernels, cache_type=cache_type, threads=3)
    np.testing.assert_allclose(ours, truth, rtol=2e-4, atol=CACHE_TYPES[cache_type])


@pytest.mark.parametrize("extra", [*EXTRAS, "long_window"])
@pytest.mark.parametrize("threads", [1, 3])
def test_extras_over_a_long_cache_equal_reference(rng, kernels, extra, threads):
    """More than two splits; a few queries take the path that merges splits side by side."""
    extras = {"window": 300} if extra == "long_window" else extras_of(extra, 6)
    width, program = program_of(6, 2, 16, **extras)
    core, truth = native(program, kernels, threads), truth_of(program)
    blocks = rng.permutation(64)[:50].tolist()
    for start, length in ((0, 400), (400, 380), (780, 1), (781, 3)):
        values = rng.normal(size=(length, width)).astype(np.float32)
        step = step_of(values, [(start, length, blocks)], prefixes=[350])
        core.run(step)
        truth.run(step)
        np.testing.assert_allclose(
            core.view("out", length), truth.view("out", length), rtol=2e-4, atol=1e-5
        )


@pytest.mark.parametrize("extra", [*EXTRAS, "long_window"])
@pytest.mark.parametrize("cache_type", ["float16", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 3])
def test_extras_are_bit_equal_whatever_the_chunks_and_neighbours(
    rng, kernels, extra, threads, cache_type
):
    extras = {"window": 300} if extra == "long_window" else extras_of(extra, 6)
    width, program = program_of(6, 2, 40, **extras)
    values = rng.normal(size=(330, width)).astype(np.float32)
    core = native(program, kernels, threads, cache_type=cache_type)
    core.run(step_of(values, [(0, 330, range(21))], prefixes=[60]))
    whole = core.view("out", 330).copy()

    chunks = [(0, 60), (60, 100), (160, 1), (161, 1), (162, 120), (282, 1), (283, 47)]
    for start, length in chunks:
        step = step_of(values[start : start + length], [(start, length, range(21, 42))],
                       prefixes=[60])  # fmt: skip
        core.run(step)
        np.testing.assert_array_equal(core.view("out", length), whole[start : start + length])

    neighbours = rng.normal(size=(40, width)).astype(np.float32)
    mixed = np.concatenate([neighbours[:20], values[329:], neighbours[20:]])
    sequences = [(0, 20, [43, 44]), (329, 1, range(21, 42)), (0, 20, [45, 46])]
    core.run(step_of(mixed, sequences, prefixes=[20, 60, 7]))
    np.testing.assert_array_equal(core.view("out", 41)[20], whole[329])


def test_a_window_wider_than_the_sequence_changes_no_bit(rng, kernels):
    values = rng.normal(size=(70, 10 * 16)).astype(np.float32)
    results = []
    for window in (None, 70, 4000):
        _, program = program_of(6, 2, 16, window=window)
        core = native(program, kernels)
        core.run(step_of(values))
        results.append(core.view("out", 70).copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("window", [5, 16, 17, 40])
def test_blocks_behind_the_window_may_be_given_back(rng, kernels, window):
    """Tables without the dropped blocks, whose memory others have overwritten with NaN."""
    width, program = program_of(6, 2, 16, window=window)
    values = rng.normal(size=(200, width)).astype(np.float32)
    core = native(program, kernels, threads=3)
    core.run(step_of(values))
    whole = core.view("out", 200).copy()

    core = native(program, kernels, threads=3)
    core.run(step_of(np.full((512, width), np.nan, np.float32), [(0, 512, range(32))]))
    for start in range(0, 200, 10):
        first = max(0, start - window + 1) // 16
        table = [block % 7 for block in range(first, -(-(start + 10) // 16))]
        step = step_of(values[start : start + 10], [(start, 10, [0])])
        step = dataclasses.replace(step, tables=(tables_of([table], [first]),))
        core.run(step)
        np.testing.assert_array_equal(core.view("out", 10), whole[start : start + 10])


def test_a_block_that_is_still_seen_must_not_be_dropped(rng):
    _, program = program_of(1, 1, 8, window=20)
    core = native(program)
    step = step_of(np.zeros((1, 24), np.float32), [(35, 1, [0])])
    core.run(dataclasses.replace(step, tables=(tables_of([[0, 1]], [1]),)))
    with pytest.raises(ValueError, match="starts at block 2 of its sequence, but block 1 is"):
        core.run(dataclasses.replace(step, tables=(tables_of([[0, 1]], [2]),)))


def test_groups_keep_their_own_blocks(rng, kernels):
    """Two layers in two groups with different tables equal two programs of one layer each."""
    size, heads = 8, 2
    width = 3 * heads * size
    program = [
        *feed(2 * width),
        ops.Copy("in", "first", 0, width),
        ops.Copy("in", "second", width, width),
        *(
            op
            for layer, (name, window) in enumerate((("first", None), ("second", 20)))
            for op in (
                ops.WriteKV(name, layer, 16, 32, heads, size, group=layer),
                ops.Attention(name, f"{name} out", layer, heads, heads, size, 0.3, layer, window),
            )
        ),
    ]
    values = rng.normal(size=(50, 2 * width)).astype(np.float32)
    core = native(program, kernels, cache_blocks=[4, 9])
    step = step_of(values)
    tables = tables_of([[3, 1, 0, 2]]), tables_of([[8, 4, 6, 5]])
    core.run(dataclasses.replace(step, tables=tables))
    for number, (name, window) in enumerate((("first", None), ("second", 20))):
        lone = [*feed(width), ops.WriteKV("in", 0, 16, 32, heads, size),
                ops.Attention("in", "out", 0, heads, heads, size, 0.3, window=window)]  # fmt: skip
        alone = native(lone, kernels)
        alone.run(step_of(values[:, number * width : (number + 1) * width]))
        np.testing.assert_array_equal(core.view(f"{name} out", 50), alone.view("out", 50))
    assert core.block_bytes == [2 * 2 * 8 * 16 * 4] * 2
    with pytest.raises(ValueError, match="cache block 8 of 4"):
        core.run(dataclasses.replace(step, tables=(tables[1], tables[1])))
    with pytest.raises(ValueError, match="1 tables of cache blocks; the program has 2"):
        core.run(dataclasses.replace(step, tables=tables[:1]))


@pytest.mark.parametrize(("start", "length"), [(0, 9), (5, 20)])
def test_a_prefix_that_all_see_must_be_whole(start, length):
    _, program = program_of(1, 1, 8, sees_prefix=True)
    values = np.zeros((length, 24), np.float32)
    step = step_of(values, [(start, length, range(2))], prefixes=[10])
    with pytest.raises(ValueError, match="must be computed in one step; this one has 10 tokens"):
        native(program).run(step)


def test_a_long_context_costs_nothing_until_it_is_used():
    """A million positions: scratch and tables stay small, and the last position computes."""
    width, program = program_of(8, 2, 64, window=512)
    core = native(program, context=1 << 20, threads=3)
    values = np.ones((1, width), np.float32)
    start = (1 << 20) - 1
    first = (start - 511) // 16
    step = step_of(values, [(start, 1, [0])])
    table = tables_of([list(range((1 << 16) - first))], [first])
    core.run(dataclasses.replace(step, tables=(table,)))
    assert np.isfinite(core.view("out", 1)).all()


def test_many_splits_are_merged_in_rounds(rng, kernels):
    """More than 64 splits of 256 tokens, all in four blocks that repeat."""
    width, program = program_of(2, 1, 8)
    core = native(program, kernels, threads=3, context=40_000)
    values = rng.normal(size=(64, width)).astype(np.float32)
    core.run(step_of(values, [(0, 64, range(4))]))
    tokens = 35_000
    blocks = [i % 4 for i in range(-(-tokens // 16))]
    blocks[-1] = 5
    last = rng.normal(size=(1, width)).astype(np.float32)
    step = step_of(last, [(tokens - 1, 1, blocks)])
    core.run(step)
    side_by_side = core.view("out", 1).copy()
    lone = native(program, kernels, threads=1, context=40_000)
    lone.run(step_of(values, [(0, 64, range(4))]))
    # Twelve sequences at once are too many tasks for splits to run side by side.
    many = np.concatenate([last] * 12)
    lone.run(step_of(many, [(tokens - 1, 1, [*blocks[:-1], 6 + i]) for i in range(12)]))
    np.testing.assert_array_equal(side_by_side[0], lone.view("out", 12)[5])


@pytest.mark.parametrize(
    ("extras", "message"),
    [
        ({"window": 8, "sees_prefix": True}, "do not go together"),
        ({"window": 0}, "window must be positive"),
        ({"soft_cap": 0.0}, "soft cap must be positive"),
        ({"slopes": np.ones(3, "f4")}, "one entry per head"),
        ({"group": 1}, "no cache layer of this group"),
    ],
)
def test_attention_refuses_what_does_not_fit(extras, message):
    _, program = program_of(4, 2, 8, **extras)
    with pytest.raises(ValueError, match=message):
        native(program)


def test_attention_refuses_heads_that_are_too_large():
    _, program = program_of(1, 1, 513)
    with pytest.raises(ValueError, match="head_dim is at most 512"):
        native(program)
