import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.serving import reference_scores
from benchmarks.serving.correctness import (
    CorrectnessReport,
    Identity,
    TextScores,
    compare,
)
from benchmarks.serving.engine_process import BenchmarkError


def scores(logprob: float, greedy: list[int]) -> TextScores:
    return TextScores(np.full(len(greedy), logprob), np.array(greedy))


def test_perplexity_of_even_odds_is_two() -> None:
    assert scores(math.log(0.5), [1, 2]).perplexity == pytest.approx(2.0)


@pytest.mark.parametrize("drift", [0.0025, -0.0025])
def test_a_perplexity_beyond_its_limit_fails_in_both_directions(drift: float) -> None:
    reference = scores(-3.0, [1] * 100)
    assert compare(scores(-3.0 + drift / 2, [1] * 100), reference, "auto").has_passed
    assert not compare(scores(-3.0 + drift, [1] * 100), reference, "auto").has_passed


def test_float32_weights_must_agree_on_more_tokens() -> None:
    reference = scores(-3.0, [1] * 100)
    ours = scores(-3.0, [1] * 97 + [2] * 3)
    assert compare(ours, reference, "auto").has_passed
    assert not compare(ours, reference, "float32").has_passed
    assert not compare(scores(-3.0, [2] * 5 + [1] * 95), reference, "auto").has_passed


def test_an_identity_that_never_took_place_does_not_pass() -> None:
    void = Identity("in a small cache", 32, 0, "0 preemptions", took_place=False)
    assert not void.has_passed
    assert not CorrectnessReport([], [void]).has_passed


def test_report_says_what_was_wrong() -> None:
    wrong = Identity("in a batch of 32", 32, 3, "all at once", took_place=True)
    report = CorrectnessReport([compare(scores(-3.0, [1]), scores(-3.0, [1]), "auto")], [wrong])
    assert "WRONG greedy tokens in a batch of 32: 3 of 32 answers differ" in report.as_text()
    assert report.as_text().startswith("ok    weights=auto, 2 tokens: perplexity 20.0855")
    assert report.as_json()["identity"][0]["has_passed"] is False
    assert report.as_json()["has_passed"] is False


def test_without_transformers_the_remedy_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reference_scores, "_NEEDED", ("a_package_that_nobody_wrote",))
    monkeypatch.setattr(peers, "_ENVIRONMENT", tmp_path)
    with pytest.raises(BenchmarkError, match="`make peers` makes it"):
        reference_scores.reference_scores(tmp_path / "model.gguf", [1, 2])


def test_a_reference_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"cannot score .*missing\.gguf"):
        reference_scores.reference_scores(tmp_path / "missing.gguf", [1, 2])
