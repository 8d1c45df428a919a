"""The embeddings benchmark: alternating rounds, a verdict that can fail, texts that stay."""

import base64
import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.embeddings.run import PEER_BATCHES, Report, measure
from benchmarks.embeddings.sentences import mixed_texts
from benchmarks.serving.metrics import Summary


class FakeProcess:
    """Answers with vectors that point a little off the texts' own, after a told time."""

    def __init__(self, name: str, seconds: float, error: float = 0.0) -> None:
        self.name = self.description = name
        self.pid = os.getpid()
        self.batch_sizes: list[int] = []
        self._seconds = seconds
        self._error = error

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        self.batch_sizes.append(command["batch_size"])
        rows = [[len(text), 100.0, self._error * 100.0] for text in command["texts"]]
        vectors = base64.b64encode(np.array(rows, np.float32).tobytes()).decode()
        return {"seconds": self._seconds, "vectors": vectors}


def measured(ours: FakeProcess, peer: FakeProcess) -> Report:
    return measure(ours, peer, ["a", "bb"], repeats=5, progress=lambda text: None)


def test_rates_and_cosines_are_those_of_the_engines() -> None:
    ours, peer = FakeProcess("ours", 0.5), FakeProcess("peer", 1.0)
    report = measured(ours, peer)
    assert report.ratio == 2.0
    assert report.cosines == pytest.approx([1.0, 1.0])
    assert report.has_passed
    assert report.rates["yearling"].median == 4.0
    assert len(ours.batch_sizes) == 1 + 5
    assert sorted(peer.batch_sizes) == sorted(PEER_BATCHES * 6)
    assert "ours / best of sentence-transformers: 2.00" in report.as_text()


def test_slower_or_other_vectors_fail() -> None:
    assert not measured(FakeProcess("ours", 1.01), FakeProcess("peer", 1.0)).has_passed
    wrong = measured(FakeProcess("ours", 0.5, error=0.02), FakeProcess("peer", 1.0))
    assert min(wrong.cosines) < 0.9999
    assert not wrong.has_passed
    assert "FAILED" in wrong.as_text()


def test_best_form_of_the_peer_counts() -> None:
    report = measured(FakeProcess("ours", 0.5), FakeProcess("peer", 1.0))
    rates = {**report.rates, "sentence-transformers/8": Summary(5.0, 5.0, 5.0, 5)}
    assert replace(report, rates=rates).ratio == 0.8


def test_texts_are_many_of_mixed_length_and_stay_the_same() -> None:
    texts = mixed_texts(200)
    assert len(set(texts)) == 200
    assert min(map(len, texts)) < 40
    assert 300 < max(map(len, texts)) < 700
    assert texts == mixed_texts(200)
