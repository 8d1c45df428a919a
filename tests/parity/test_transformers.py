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
    reference_scores,
    text_tokens,
)
from yearling.models.checkpoint import Checkpoint, open_checkpoint

pytestmark = pytest.mark.slow

NUM_TOKENS = 2000


@pytest.fixture(scope="module")
def checkpoint(smollm2_path: Path) -> Checkpoint:
    return open_checkpoint(smollm2_path)


@pytest.fixture(scope="module")
def tokens(checkpoint: Checkpoint) -> list[int]:
    return text_tokens(checkpoint, NUM_TOKENS)


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint, tokens: list[int]) -> TextScores:
    return reference_scores(checkpoint.path, tokens)


@pytest.mark.parametrize("weights", ["auto", "float32"])
def test_engine_reads_english_as_transformers_does(
    checkpoint: Checkpoint, tokens: list[int], reference: TextScores, weights: str
) -> None:
    agreement = compare(engine_scores(checkpoint, tokens, weights), reference, weights)
    assert agreement.has_passed, CorrectnessReport([agreement]).as_text()


def test_float32_engine_gives_each_token_the_same_probability(
    checkpoint: Checkpoint, tokens: list[int], reference: TextScores
) -> None:
    ours = engine_scores(checkpoint, tokens, "float32")
    np.testing.assert_allclose(ours.logprobs, reference.logprobs, rtol=0, atol=2e-3)


@pytest.fixture(scope="module")
def identities(checkpoint: Checkpoint) -> list[Identity]:
    return greedy_identity(checkpoint)


@pytest.mark.parametrize("number", range(4), ids=["batch", "prefix", "chunks", "preempted"])
def test_greedy_tokens_never_depend_on_company(identities: list[Identity], number: int) -> None:
    identity = identities[number]
    assert identity.has_passed, CorrectnessReport([], [identity]).as_text()
