"""Updates of low rank beside a linear operation, on every instruction set."""

import dataclasses

import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, step_of
from yearling.kernels import ops
from yearling.kernels.program import LowRankUpdate

INPUTS, OUTPUTS, RANKS = 50, 37, (3, 9)


def linear(rng, kind="float32"):
    matrix = rng.normal(size=(OUTPUTS, INPUTS)).astype(np.float32)
    return ops.Linear("in", "out", packed(kind, matrix))


def update(rng):
    """Two parts: outputs from 0 on and from 16 on; those between have none."""
    first = rng.normal(size=(sum(RANKS), INPUTS)).astype(np.float32)
    parts = tuple(
        (column, row, rng.normal(size=(outputs, rank)).astype(np.float32))
        for column, row, outputs, rank in ((0, 0, 11, RANKS[0]), (16, RANKS[0], 21, RANKS[1]))
    )
    return LowRankUpdate(0, first, parts)


def added(update, rows):
    """What an update adds, in float64."""
    between = rows.astype(np.float64) @ update.first.T
    result = np.zeros((len(rows), OUTPUTS))
    for column, row, second in update.parts:
        outputs, rank = second.shape
        result[:, column : column + outputs] += between[:, row : row + rank] @ second.T
    return result


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("kind", "tolerance"), [("float32", 1e-4), ("float16", 5e-2)])
def test_sequences_get_the_updates_of_their_own_adapter(rng, kernels, threads, kind, tolerance):
    lengths, adapters = [1, 3, 20, 1, 5], [1, -1, 0, 1, 0]
    rows = rng.normal(size=(sum(lengths), INPUTS)).astype(np.float32)
    core = native([*feed(INPUTS), linear(rng)], kernels, threads)
    updates = [update(rng), update(rng)]
    for number, one in enumerate(updates):
        core.set_adapter(number, [one], kind)
    blocks = iter(range(64))
    sequences = [(0, n, [next(blocks) for _ in range(-(-n // 16))]) for n in lengths]
    step = step_of(rows, sequences)
    core.run(step)
    base = core.view("out", len(rows)).copy()
    core.run(dataclasses.replace(step, adapters=np.array(adapters, np.int32)))
    found = core.view("out", len(rows)) - base
    starts = np.cumsum([0, *lengths])
    for start, end, adapter in zip(starts, starts[1:], adapters, strict=False):
        expected = np.zeros((end - start, OUTPUTS))
        if adapter >= 0:
            expected = added(updates[adapter], rows[start:end])
        np.testing.assert_allclose(found[start:end], expected, atol=tolerance)
    # A row's bits are those that it has alone.
    row = starts[2] + 7
    together = core.view("out", len(rows))[row].copy()
    alone = step_of(rows[row : row + 1], [(0, 1, [0])])
    core.run(dataclasses.replace(alone, adapters=np.array([0], np.int32)))
    np.testing.assert_array_equal(core.view("out", 1)[0], together)


def test_rows_of_logits_get_the_updates_of_their_own_sequence(rng, kernels):
    lengths, adapters, wanted = [3, 20, 5], [1, -1, 0], [27, 1, 10, 2]
    rows = rng.normal(size=(sum(lengths), INPUTS)).astype(np.float32)
    product = dataclasses.replace(linear(rng), input="wanted")
    core = native([*feed(INPUTS), ops.Gather("in", "wanted"), product], kernels)
    updates = [update(rng), update(rng)]
    for number, one in enumerate(updates):
        core.set_adapter(number, [one], "float32")
    step = step_of(rows, [(0, 3, [0]), (0, 20, [1, 2]), (0, 5, [3])], logit_rows=wanted)
    core.run(step)
    base = core.view("out", len(wanted)).copy()
    core.run(dataclasses.replace(step, adapters=np.array(adapters, np.int32)))
    found = core.view("out", len(wanted)) - base
    expected = [
        added(updates[0], rows[27:28]),
        added(updates[1], rows[1:2]),
        np.zeros((1, OUTPUTS)),
        added(updates[1], rows[2:3]),
    ]
    np.testing.assert_allclose(found, np.concatenate(expected), atol=1e-4)


def test_instruction_sets_agree_beside_quantised_weights(rng, kernels):
    operation, one = linear(rng, "int4"), update(rng)
    rows = rng.normal(size=(4, INPUTS)).astype(np.float32)
    step = dataclasses.replace(step_of(rows), adapters=np.array([0], np.int32))
    results = []
    for name in ("portable", kernels):
        core = native([*feed(INPUTS), operation], name)
        core.set_adapter(0, [one], "float16")
        core.run(step)
        results.append(core.view("out", 4).copy())
    np.testing.assert_allclose(*results, atol=1e-3)


def test_freed_adapter_cannot_be_named(rng):
    core = native([*feed(INPUTS), linear(rng)])
    step = dataclasses.replace(
        step_of(np.zeros((1, INPUTS), np.float32)), adapters=np.array([0], np.int32)
    )
    for change in (lambda: None, lambda: core.set_adapter(0, [])):
        change()
        with pytest.raises(ValueError, match="no adapter has number 0"):
            core.run(step)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"linear": 1}, "no linear operation has that number"),
        ({"first": np.zeros((12, INPUTS + 1), np.float32)}, r"first matrix is \(ranks, inputs\)"),
        ({"parts": ((4, 0, np.zeros((8, 3), np.float32)),)}, "multiple of eight outputs"),
        ({"parts": ((32, 0, np.zeros((8, 3), np.float32)),)}, "second matrix"),
        ({"parts": ((0, 10, np.zeros((8, 3), np.float32)),)}, "second matrix"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(rng, change, message):
    core = native([*feed(INPUTS), linear(rng)])
    with pytest.raises(ValueError, match=message):
        core.set_adapter(0, [dataclasses.replace(update(rng), **change)])
