import math

import numpy as np
import pytest

from tests.kernels.programs import feed, native, step_of
from yearling.kernels import _native, ops
from yearling.kernels import reference_sampling as reference
from yearling.kernels.reference_sampling import SamplingOptions

VOCABULARY = 1003
ROWS = 24


@pytest.fixture
def core(kernels):
    program = [*feed(VOCABULARY), ops.Gather("in", "logits")]
    return native(program, kernels, 3, vocabulary=1)


def load(core, logits):
    count = len(logits)
    core.run(step_of(logits, logit_rows=range(count)))
    return core.buffers["logits"]


def choose(core, logits, options, num_logprobs=-1):
    """Sample one token per row of logits with one SamplingOptions per row."""
    ints, floats = (lambda v: np.array(v, np.int32)), (lambda v: np.array(v, np.float32))
    histories = [list(o.history) for o in options]
    biases = [list(o.logit_bias.items()) for o in options]
    masks = [o.allowed for o in options if o.allowed is not None]
    is_masked = np.array([o.allowed is not None for o in options])
    return core.core.sample(
        buffer=load(core, logits),
        rows=ints(range(len(logits))),
        temperature=floats([o.temperature for o in options]),
        top_k=ints([o.top_k for o in options]),
        top_p=floats([o.top_p for o in options]),
        min_p=floats([o.min_p for o in options]),
        repetition=floats([o.repetition_penalty for o in options]),
        presence=floats([o.presence_penalty for o in options]),
        frequency=floats([o.frequency_penalty for o in options]),
        seeds=np.array([o.seed for o in options], np.uint64),
        output_indices=np.array([o.output_index for o in options], np.uint64),
        history=ints([token for history in histories for token in history]),
        history_offsets=ints(np.cumsum([0, *map(len, histories)])),
        num_generated=ints([o.num_generated for o in options]),
        bias_tokens=ints([token for bias in biases for token, _ in bias]),
        bias_values=floats([value for bias in biases for _, value in bias]),
        bias_offsets=ints(np.cumsum([0, *map(len, biases)])),
        allowed=np.stack([np.frombuffer(mask, np.uint32) for mask in masks])
        if masks
        else np.zeros((0, 0), np.uint32),
        allowed_rows=ints(np.cumsum(is_masked) * is_masked - 1),
        num_logprobs=ints([num_logprobs] * len(logits)),
    )


@pytest.mark.parametrize(("seed", "index"), [(0, 0), (1, 0), (2**64 - 1, 2**63), (17, 12345)])
def test_uniform_equals_reference(seed, index):
    assert _native.uniform(seed, index) == reference.uniform(seed, index)


def test_uniform_is_uniform():
    draws = np.array([_native.uniform(5, index) for index in range(20_000)])
    counts, _ = np.histogram(draws, bins=20, range=(0, 1))
    # Chi-squared with 19 degrees of freedom: 43.8 is its 99.9th percentile.
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.0},
        {"temperature": 0.3},
        {"temperature": 1.7},
        {"top_k": 1},
        {"top_k": 40},
        {"top_p": 0.5},
        {"top_p": 0.999},
        {"min_p": 0.1},
        {"top_k": 100, "top_p": 0.8, "min_p": 0.01, "temperature": 0.9},
        {"repetition_penalty": 1.8, "history": (3, 3, 9, 500), "num_generated": 2},
        {"presence_penalty": 1.5, "frequency_penalty": 0.7, "history": tuple(range(50)) * 2,
         "num_generated": 60},
        {"logit_bias": {7: 30.0}, "temperature": 0.5},
        {"logit_bias": {1002: -100.0, 3: 5.0}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("spread", [0.1, 3, 12])
def test_sampling_equals_reference(rng, core, options, spread):
    logits = (rng.normal(size=(ROWS, VOCABULARY)) * spread).astype(np.float32)
    rows = [SamplingOptions(**options, seed=row * 977, output_index=row) for row in range(ROWS)]
    tokens, *_ = choose(core, logits, rows)
    expected = [
        reference.sample(row.astype(np.float64), o) for row, o in zip(logits, rows, strict=True)
    ]
    assert tokens.tolist() == expected


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"temperature": 1.7}, {"top_p": 0.5}])
def test_only_allowed_tokens_are_chosen(rng, core, options):
    """Some rows have a mask and some none; the last word's spare bits stand for no token."""
    logits = (rng.normal(size=(ROWS, VOCABULARY)) * 3).astype(np.float32)
    rows, allowed = [], []
    for row in range(ROWS):
        ids = set(rng.choice(VOCABULARY, size=1 + row % 3 * 40, replace=False).tolist())
        bits = np.isin(np.arange(-(-VOCABULARY // 32) * 32), list(ids))
        mask = np.packbits(bits, bitorder="little").tobytes()
        is_free = row % 4 == 3
        allowed.append(range(VOCABULARY) if is_free else ids)
        mask_of_row = None if is_free else mask
        rows.append(SamplingOptions(**options, seed=row, allowed=mask_of_row))
    tokens, *_ = choose(core, logits, rows)
    expected = [
        reference.sample(row.astype(np.float64), o) for row, o in zip(logits, rows, strict=True)
    ]
    assert tokens.tolist() == expected
    assert all(token in ids for token, ids in zip(tokens, allowed, strict=True))


def test_masks_do_not_change_reported_log_probabilities(rng, core):
    logits = rng.normal(size=(1, VOCABULARY)).astype(np.float32)
    mask = bytearray(-(-VOCABULARY // 32) * 4)
    mask[12] = 1 << 4
    plain, masked = (
        choose(core, logits, [SamplingOptions(temperature=0, allowed=m)], num_logprobs=3)
        for m in (None, bytes(mask))
    )
    assert masked[0][0] == 100
    np.testing.assert_array_equal(plain[2], masked[2])
    expected = reference.log_softmax(logits.astype(np.float64))[0, 100]
    assert masked[1][0] == pytest.approx(expected, abs=1e-5)


def test_sampling_draws_from_the_distribution(core):
    logits = np.full((1, VOCABULARY), -40.0, np.float32)
    logits[0, [10, 20, 30]] = np.log([0.5, 0.3, 0.2])
    draws = [
        int(choose(core, logits, [SamplingOptions(seed=3, output_index=i)])[0][0])
        for i in range(3000)
    ]
    shares = [draws.count(token) / 3000 for token in (10, 20, 30)]
    np.testing.assert_allclose(shares, [0.5, 0.3, 0.2], atol=0.035)  # four standard errors


def test_ties_go_to_the_lower_id(core):
    logits = np.zeros((1, VOCABULARY), np.float32)
    assert choose(core, logits, [SamplingOptions(temperature=0.0)])[0][0] == 0
    kept = {
        int(choose(core, logits, [SamplingOptions(top_k=3, output_index=i)])[0][0])
        for i in range(60)
    }
    assert kept == {0, 1, 2}


@pytest.mark.parametrize("spread", [0.1, 1, 12])
def test_logprobs_are_of_the_model_before_penalties_and_temperature(rng, core, spread):
    logits = (rng.normal(size=(4, VOCABULARY)) * spread).astype(np.float32)
    options = [SamplingOptions(temperature=0.2, logit_bias={5: 100.0})] * 4
    tokens, logprobs, top_tokens, top_logprobs = choose(core, logits, options, num_logprobs=3)
    truth = reference.log_softmax(logits.astype(np.float64))
    assert tokens.tolist() == [5, 5, 5, 5]
    np.testing.assert_allclose(logprobs, truth[:, 5], atol=1e-4)
    np.testing.assert_array_equal(top_tokens, np.argsort(-logits, axis=1)[:, :3])
    np.testing.assert_allclose(top_logprobs, -np.sort(-truth, axis=1)[:, :3], atol=1e-4)


def test_logprob_is_nan_when_not_asked_for(rng, core):
    logits = rng.normal(size=(1, VOCABULARY)).astype(np.float32)
    _, logprobs, top_tokens, _ = choose(core, logits, [SamplingOptions()])
    assert math.isnan(logprobs[0])
    assert top_tokens.shape == (1, 0)


def test_scores_are_log_probabilities_of_the_targets(rng, core):
    logits = (rng.normal(size=(5, VOCABULARY)) * 4).astype(np.float32)
    targets = np.array([0, 1002, 5, 77, 400], np.int32)
    tokens, logprobs, top_tokens, _ = core.core.score(
        buffer=load(core, logits),
        rows=np.arange(5, dtype=np.int32),
        targets=targets,
        num_logprobs=np.array([0, 1, 2, 0, 0], np.int32),
    )
    truth = reference.log_softmax(logits.astype(np.float64))
    np.testing.assert_array_equal(tokens, targets)
    np.testing.assert_allclose(logprobs, truth[np.arange(5), targets], atol=1e-4)
    np.testing.assert_array_equal(top_tokens[2], np.argsort(-logits[2])[:2])


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 500, VOCABULARY - 1])
def test_logits_that_are_not_finite_choose_no_token(rng, core, poison, place):
    logits = rng.normal(size=(3, VOCABULARY)).astype(np.float32)
    logits[1, place] = poison
    tokens, *_ = choose(core, logits, [SamplingOptions(temperature=0.0)] * 3)
    assert tokens[1] == -1
    assert (tokens[[0, 2]] >= 0).all()


def test_sampling_refuses_tokens_outside_the_vocabulary(rng, core):
    logits = rng.normal(size=(1, VOCABULARY)).astype(np.float32)
    for options in ({"history": (VOCABULARY,)}, {"logit_bias": {-1: 1.0}}):
        with pytest.raises(ValueError, match="outside the vocabulary"):
            choose(core, logits, [SamplingOptions(**options)])
