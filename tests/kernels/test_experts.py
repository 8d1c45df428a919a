import dataclasses

import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, run_both, step_of
from yearling.kernels import ops

KINDS = ["int4", "int8", "float16", "float32"]


def program_of(rng, kind="float32", *, count=5, active=2, width=40, hidden=24, **settings):
    """Columns of the input: the row, then its router logits; its result is added to `out`."""
    is_gated = settings.setdefault("is_gated", True)
    rows = 2 * hidden if is_gated else hidden
    first = [packed(kind, rng.normal(size=(rows, width)) / 6) for _ in range(count)]
    second = [packed(kind, rng.normal(size=(width, hidden)) / 5) for _ in range(count)]
    experts = ops.Experts(
        "row", "router", "out", tuple(first), tuple(second),
        settings.pop("activation", "silu"), active=active, **settings,
    )  # fmt: skip
    return width + count, [
        *feed(width + count),
        ops.Copy("in", "row", 0, width),
        ops.Copy("in", "router", width, count),
        ops.Copy("in", "out", 0, width),
        experts,
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 3, 50])
def test_experts_equal_reference(rng, kernels, kind, rows):
    columns, program = program_of(rng, kind)
    values = rng.normal(size=(rows, columns)).astype(np.float32)
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels, threads=3)
    # A code of the hidden row that rounds the other way moves a result by a 127th of a weight.
    tolerance = 2e-5 if kind.startswith("float") else 2e-2
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=tolerance)


@pytest.mark.parametrize("router_kind", ["topk_softmax", "softmax_topk"])
@pytest.mark.parametrize("is_renormalised", [True, False])
@pytest.mark.parametrize(("is_gated", "activation"), [(False, "gelu"), (True, "relu")])
@pytest.mark.parametrize(("count", "active"), [(1, 1), (8, 3), (4, 4)])
def test_routers_equal_reference(
    rng, kernels, router_kind, is_renormalised, is_gated, activation, count, active
):
    columns, program = program_of(
        rng, count=count, active=active, is_gated=is_gated, activation=activation,
        router_kind=router_kind, is_renormalised=is_renormalised,
    )  # fmt: skip
    values = rng.normal(size=(9, columns)).astype(np.float32)
    ours, truth = run_both(program, step_of(values), "out", kernels=kernels)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("router_kind", "is_renormalised", "share"),
    [("topk_softmax", True, 1.0), ("softmax_topk", True, 1.0), ("softmax_topk", False, 0.5)],
)
def test_one_of_two_equal_experts_gets_the_share_its_router_says(
    kernels, router_kind, is_renormalised, share
):
    """Logits tie, so the lower number is chosen: it triples, the other negates."""
    first = (packed("float32", np.eye(2)), packed("float32", -np.eye(2)))
    second = (packed("float32", 3 * np.eye(2)), packed("float32", np.eye(2)))
    program = [
        *feed(2),
        ops.Scale("in", "router", 0.0),
        ops.Scale("in", "out", 0.0),
        ops.Experts("in", "router", "out", first, second, "relu", False, 1,
                    router_kind, is_renormalised),
    ]  # fmt: skip
    core = native(program, kernels)
    core.run(step_of(np.array([[1.0, 2.0]], np.float32)))
    np.testing.assert_allclose(core.view("out", 1), share * np.array([[3.0, 6.0]]), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_expert_rows_do_not_depend_on_their_company(rng, kernels, kind, threads):
    columns, program = program_of(rng, kind)
    values = rng.normal(size=(130, columns)).astype(np.float32)
    core = native(program, kernels, threads)
    core.run(step_of(values))
    together = core.view("out", 130).copy()
    for rows in ([0], [129], [7, 50, 3], range(40, 80)):
        core.run(step_of(values[list(rows)]))
        np.testing.assert_array_equal(core.view("out", len(rows)), together[list(rows)])


def test_experts_let_a_nan_of_the_router_through(rng, kernels):
    columns, program = program_of(rng)
    values = rng.normal(size=(3, columns)).astype(np.float32)
    values[1, 42] = np.nan
    core = native(program, kernels)
    core.run(step_of(values))
    assert np.isnan(core.view("out", 3)).all(axis=1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": 0}, "1 to as many as there are"),
        ({"active": 6}, "1 to as many as there are"),
        ({"second": ()}, "one matrix per router logit"),
        ({"is_gated": False}, "fit the input, the output and each other"),
        ({"router": "row"}, "one matrix per router logit"),
        ({"input": "out"}, "fit the input, the output and each other"),
        ({"router_kind": "random"}, "no router is named 'random'"),
    ],
)
def test_experts_refuse_what_does_not_fit(rng, change, message):
    _, program = program_of(rng)
    with pytest.raises(ValueError, match=message):
        native([*program[:-1], dataclasses.replace(program[-1], **change)])


def test_experts_of_different_shapes_are_refused(rng):
    _, program = program_of(rng)
    odd = packed("float32", rng.normal(size=(48, 41)).astype(np.float32))
    experts = program[-1]
    changed = dataclasses.replace(experts, first=(odd, *experts.first[1:]))
    with pytest.raises(ValueError, match="must have one shape"):
        native([*program[:-1], changed])
