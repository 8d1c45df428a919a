"""The engine against transformers in fp32, over real English text and the embedded model."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.serving.correctness import (
    CorrectnessReport,
    Identity,
    TextScores,
    compare,
    engine_scores,
    greedy_identity,
    text_tokens,
)
from benchmarks.serving.reference_scores import reference_scores
from yearling.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NUM_TOKENS = 2000


@pytest.fixture(scope="module")
def checkpoint(smollm2_path: Path) -> Checkpoint:
    return open_checkpoint(smollm2_path)


@pytest.fixture(scope="module")
def tokens(checkpoint: Checkpoint) -> list[int]:
    return text_tokens(checkpoint, NUM_TOKENS)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint, tokens: list[int]) -> TextScores:
    return TextScores(*reference_scores(checkpoint.path, tokens))


@pytest.fixture(scope="module")
def float32(checkpoint: Checkpoint, tokens: list[int]) -> TextScores:
    return engine_scores(checkpoint, tokens, "float32")


def test_default_weights_read_english_as_transformers_does(
    checkpoint: Checkpoint, tokens: list[int], reference: TextScores
) -> None:
    agreement = compare(engine_scores(checkpoint, tokens, "auto"), reference, "auto")
    assert agreement.has_passed, CorrectnessReport([agreement]).as_text()


def test_float32_weights_read_english_as_transformers_does(
    float32: TextScores, reference: TextScores
) -> None:
    agreement = compare(float32, reference, "float32")
    assert agreement.has_passed, CorrectnessReport([agreement]).as_text()


def test_float32_weights_give_each_token_the_same_probability(
    float32: TextScores, reference: TextScores
) -> None:
    np.testing.assert_allclose(float32.logprobs, reference.logprobs, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def identities(checkpoint: Checkpoint) -> list[Identity]:
    return greedy_identity(checkpoint)


@pytest.mark.parametrize("number", range(4), ids=["batch", "prefix", "chunks", "preempted"])
def test_greedy_tokens_never_depend_on_company(identities: list[Identity], number: int) -> None:
    identity = identities[number]
    assert identity.has_passed, CorrectnessReport([], [identity]).as_text()
