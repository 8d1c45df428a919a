"""Rows that nobody wants are dropped behind the last operation in which tokens meet."""

import numpy as np
import pytest

from tests.kernels.programs import feed, native, packed, step_of
from yearling.kernels import ops
from yearling.kernels.program import buffer_shapes
from yearling.models.wanted_rows import gather_early

WIDTH, HIDDEN, TOKENS = 16, 48, 9
WANTED = [2, 8]


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(2023)


def decoder(rng: np.random.Generator) -> list[ops.Op]:
    """One layer as most decoders have it; keys, values and queries are the rows themselves."""

    def matrix(outputs: int, inputs: int) -> ops.Weights:
        values = rng.normal(size=(outputs, inputs)) / inputs**0.5
        return packed("float32", values.astype(np.float32))

    return [
        *feed(3 * WIDTH),
        ops.Linear("in", "residual", matrix(WIDTH, 3 * WIDTH)),
        ops.WriteKV("in", 0, WIDTH, 2 * WIDTH, 1, WIDTH),
        ops.Attention("in", "attended", 0, 1, 1, WIDTH, 0.25),
        ops.Linear("attended", "residual", matrix(WIDTH, WIDTH), accumulates=True),
        ops.RMSNorm("residual", "normed", np.ones(WIDTH, np.float32), 1e-5),
        ops.Linear("normed", "both", matrix(2 * HIDDEN, WIDTH)),
        ops.Gate("both", "hidden", "silu"),
        ops.Linear("hidden", "residual", matrix(WIDTH, HIDDEN), accumulates=True),
        ops.Gather("residual", "gathered"),
        ops.RMSNorm("gathered", "gathered", np.ones(WIDTH, np.float32), 1e-5),
        ops.Linear("gathered", "logits", matrix(7, WIDTH)),
    ]


def test_logits_keep_their_bits_and_other_rows_are_not_computed(rng: np.random.Generator) -> None:
    late = decoder(rng)
    early = gather_early(late)
    values = rng.normal(size=(TOKENS, 3 * WIDTH)).astype(np.float32)
    cores = [native(list(program), vocabulary=1) for program in (late, early)]
    for core in cores:
        core.run(step_of(values, logit_rows=WANTED))
    whole, spared = (core.view("logits", len(WANTED)).copy() for core in cores)
    np.testing.assert_array_equal(whole, spared)
    shapes = buffer_shapes(early)
    assert "both" in buffer_shapes(late)
    assert "both" not in shapes
    assert not shapes["both.wanted"].has_token_rows


def test_only_what_is_read_later_is_gathered(rng: np.random.Generator) -> None:
    early = gather_early(decoder(rng))
    gathers = [(op.input, op.output) for op in early if isinstance(op, ops.Gather)]
    assert gathers == [("residual", "gathered"), ("attended", "attended.wanted")]
    last = max(i for i, op in enumerate(early) if isinstance(op, ops.Attention))
    assert [type(op) for op in early[last + 1 : last + 3]] == [ops.Gather, ops.Gather]


def test_programs_without_a_known_end_stay_as_they_are(rng: np.random.Generator) -> None:
    program = decoder(rng)
    encoder = [op for op in program if not isinstance(op, ops.Gather)]
    assert gather_early(encoder) == tuple(encoder)
    end = next(i for i, op in enumerate(program) if isinstance(op, ops.Gather))
    positioned = [*program[:end], ops.LogScale("residual", 0, WIDTH, 64), *program[end:]]
    assert gather_early(positioned) == tuple(positioned)
