import dataclasses
import threading

import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, step_of, tables_of
from yearling.kernels import _native, ops
from yearling.kernels.program import NativeProgram, buffer_shapes


def tiny() -> NativeProgram:
    program = [
        *feed(24),
        ops.WriteKV("in", 0, 8, 16, 1, 8),
        ops.Attention("in", "out", 0, 1, 1, 8, 1.0),
        ops.Gather("out", "logits"),
    ]
    return native(program, context=64, step_tokens=32, logit_rows=4, cache_blocks=[8])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": np.array([0, 1, 0], np.int32)}, "token id 1 is outside the vocabulary of 1"),
        ({"tokens": np.array([0, -1, 0], np.int32)}, "token id -1"),
        ({"tokens": np.zeros(0, np.int32)}, "a step of 0 tokens"),
        ({"tokens": np.zeros(33, np.int32)}, "a step of 33 tokens; 1 to 32 fit"),
        ({"starts": np.array([62], np.int32)}, "position 64 is outside the context of 64"),
        ({"starts": np.array([-1], np.int32)}, "starts must not be negative"),
        ({"starts": np.array([15], np.int32)}, "block table is too short"),
        ({"lengths": np.array([2], np.int32)}, "cover the step's tokens"),
        ({"lengths": np.array([0], np.int32)}, "lengths must be positive"),
        ({"tables": (tables_of([[8]]),)}, "cache block 8 of 8"),
        ({"tables": (tables_of([[-1]]),)}, "cache block -1"),
        ({"tables": ()}, "0 tables of cache blocks; the program has 1 cache groups"),
        ({"tables": (tables_of([[0], [0]]),)}, "must have one row per sequence"),
        ({"tables": (tables_of([[0]], [1]),)}, "starts at block 1 of its sequence, but block 0"),
        ({"tables": (tables_of([[0]], [-1]),)}, "first_blocks must not be negative"),
        ({"prefixes": np.array([-1], np.int32)}, "prefixes and slots must not be negative"),
        ({"prefixes": np.array([1, 1], np.int32)}, "one entry per sequence"),
        ({"logit_rows": np.array([3], np.int32)}, "logit row 3"),
        ({"logit_rows": np.zeros(5, np.int32)}, "5 logit rows; at most 4 fit"),
        ({"inject_rows": np.array([9, 0, 1], np.int32)}, "injected row 9"),
        ({"inject_values": np.zeros((3, 23), np.float32)}, "as wide as the residual stream"),
        ({"inject_values": np.zeros((2, 24), np.float32)}, "one row per entry"),
    ],
)
def test_run_refuses_what_is_out_of_range(change, message):
    step = step_of(np.zeros((3, 24), np.float32))
    if "position" in message:
        change = change | {"tables": (tables_of([range(8)]),)}
    with pytest.raises(ValueError, match=message):
        tiny().run(dataclasses.replace(step, **change))


def test_buffer_shapes_follow_the_operations():
    program = [
        *feed(24),
        ops.Linear("in", "wide", packed("float32", np.ones((10, 24), "f4")), column=6),
        ops.Gate("wide", "gated"),
        ops.Gather("gated", "rows"),
    ]
    shapes = buffer_shapes(program)
    assert {name: shape.columns for name, shape in shapes.items()} == {
        "in": 24, "wide": 16, "gated": 8, "rows": 8,
    }  # fmt: skip
    assert [name for name, shape in shapes.items() if not shape.has_token_rows] == ["rows"]


def test_buffer_shapes_know_every_operation_that_writes():
    def matrix(outputs, inputs):
        return packed("float32", np.ones((outputs, inputs), "f4"))

    program = [
        *feed(24),
        ops.AddPositions("positions", np.zeros((9, 7), "f4"), accumulates=False),
        ops.Angles("angles", np.ones(3, "f4")),
        ops.LayerNorm("in", "normed", np.ones(24, "f4"), None, 1e-5),
        ops.Copy("in", "part", 4, 5),
        ops.Scale("part", "scaled", 2.0),
        ops.WriteKV("in", 0, 8, 16, 1, 8),
        ops.Attention("in", "attended", 0, 1, 1, 8, 1.0),
        ops.Convolution("in", "convolved", 0, np.zeros((6, 4), "f4"), None),
        ops.SelectiveScan(
            "convolved", "convolved", "in", 0, 3, "in", 6, "scanned", 0,
            np.zeros((6, 3), "f4"), np.zeros(6, "f4"),
        ),
        ops.Linear("in", "router", matrix(2, 24)),
        ops.Scale("in", "summed", 1.0),
        ops.Experts("in", "router", "summed", (matrix(4, 24),) * 2, (matrix(24, 4),) * 2,
                    "relu", False, 1),
        ops.Pool("summed", "pooled", "mean", True),
    ]  # fmt: skip
    shapes = buffer_shapes(program)
    assert {name: shape.columns for name, shape in shapes.items()} == {
        "in": 24, "positions": 7, "angles": 6, "normed": 24, "part": 5, "scaled": 5,
        "attended": 8, "convolved": 6, "scanned": 6, "router": 2, "summed": 24, "pooled": 24,
    }  # fmt: skip
    assert [name for name, shape in shapes.items() if not shape.has_token_rows] == ["pooled"]
    native(program, context=9)  # the core agrees


@pytest.mark.parametrize(
    "op",
    [
        ops.Gate("nowhere", "out"),
        ops.Add("in", "nowhere"),
        ops.AddPositions("nowhere", np.zeros((9, 8), "f4")),
        ops.Rotary("in", "nowhere", 0, 1, 8),
        ops.Activate("nowhere", "relu"),
        ops.Experts("in", "nowhere", "in", (), (), "relu", False, 1),
    ],
)
def test_buffer_shapes_refuse_an_unwritten_buffer(op):
    with pytest.raises(ValueError, match="reads buffer 'nowhere', which nothing has written"):
        buffer_shapes([*feed(8), op])


def test_linear_of_the_wrong_width_is_refused():
    weights = packed("float32", np.ones((4, 23), np.float32))
    with pytest.raises(ValueError, match="must fit"):
        native([*feed(24), ops.Linear("in", "out", weights)])


def test_unknown_kernels_and_cache_types_are_refused_by_name():
    with pytest.raises(ValueError, match="no kernels are named 'sse'"):
        native(feed(8), kernels="sse")
    with pytest.raises(ValueError, match="no cache type is named 'int3'"):
        native(feed(8), cache_type="int3")


def test_cache_layers_of_an_unknown_group_are_refused():
    program = [*feed(24), ops.WriteKV("in", 0, 8, 16, 1, 8, group=1)]
    with pytest.raises(ValueError, match="cache group 1 of 1: cache_blocks needs one entry per"):
        native(program)
    with pytest.raises(ValueError, match="every cache group needs at least one block"):
        native(program, cache_blocks=[4, 0])


@pytest.mark.parametrize("threads", [-1, 257])
def test_pool_refuses_absurd_thread_counts(threads):
    with pytest.raises(ValueError, match="must be between 0"):
        _native.Pool(threads)


def test_pool_shares_work_among_more_threads_than_cores(rng):
    """Many short jobs on an oversubscribed pool: every chunk is done once, every time."""
    weights = packed("float32", rng.normal(size=(333, 64)).astype(np.float32))
    values = rng.normal(size=(150, 64)).astype(np.float32)
    pool = _native.Pool(8)
    core = NativeProgram(
        [*feed(64), ops.Linear("in", "out", weights),
         ops.Linear("in", "out", weights, accumulates=True)],
        context=256, vocabulary=1, cache_blocks=[16], pool=pool,
    )  # fmt: skip
    expected = 2 * (values.astype(np.float64) @ weights.unpack().T.astype(np.float64))
    for _ in range(200):
        core.run(step_of(values))
        np.testing.assert_allclose(core.view("out", 150), expected, rtol=1e-3, atol=1e-3)


def test_pool_takes_more_chunks_than_a_job_counts(rng, kernels):
    """An attention of 66,000 tasks: more than the 65,535 chunks of a job."""
    heads = 600
    program = [*feed(3 * heads), ops.WriteKV("in", 0, heads, 2 * heads, heads, 1),
               ops.Attention("in", "out", 0, heads, heads, 1, 1.0)]  # fmt: skip
    core = native(program, kernels, threads=3, step_tokens=1320, cache_blocks=[110])
    values = rng.normal(size=(1320, 3 * heads)).astype(np.float32)
    sequences = [(0, 12, [block]) for block in range(110)]
    core.run(step_of(values, sequences))
    results = core.view("out", 1320).copy()
    core.run(step_of(values[-12:], sequences[-1:]))
    np.testing.assert_array_equal(core.view("out", 12), results[-12:])


def test_programs_of_one_pool_may_run_from_several_threads(rng):
    pool = _native.Pool(3)
    weights = packed("int4", rng.normal(size=(200, 64)).astype(np.float32))
    values = rng.normal(size=(64, 64)).astype(np.float32)

    def build() -> NativeProgram:
        program = [*feed(64), ops.Linear("in", "out", weights)]
        return NativeProgram(program, context=64, vocabulary=1, cache_blocks=[4], pool=pool)

    lone = build()
    lone.run(step_of(values))
    expected = lone.view("out", 64).copy()
    results: list[bool] = []

    def work() -> None:
        mine = build()
        for _ in range(50):
            mine.run(step_of(values))
            results.append(np.array_equal(mine.view("out", 64), expected))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 200
