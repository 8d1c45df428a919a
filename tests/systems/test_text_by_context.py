"""Python's sources, and bits of the same characters by what stands before them."""

import math

import pytest
import torch

from yearling.systems import selection_tasks, text_by_context
from yearling.systems.text_by_context import CHARACTERS, bits_by_context, library_text
from yearling.systems.tiny_bases import Rows

CONFIG = {
    "model_type": "mamba", "vocab_size": CHARACTERS, "hidden_size": 16, "num_hidden_layers": 1,
    "state_size": 4,
}  # fmt: skip


def test_text_is_the_sources_one_after_another() -> None:
    text = library_text(("statistics", "typing"))
    assert len(text) == len(library_text(("statistics",))) + 1 + len(library_text(("typing",)))
    assert int(text.max()) < CHARACTERS
    assert "def fmean" in bytes(text.tolist()).decode("ascii")


def test_a_decoder_that_knows_nothing_needs_seven_bits() -> None:
    decoder = selection_tasks.small_decoder(CONFIG, seed=0, std=0.0)
    text = torch.arange(1_000) % CHARACTERS
    assert bits_by_context(decoder, text, (4, 300), 5) == pytest.approx([math.log2(CHARACTERS)] * 2)


def test_lengths_ask_for_the_same_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = selection_tasks.small_decoder(CONFIG, seed=0, std=0.1)
    asked = []

    def noted(_: object, rows: Rows) -> float:
        asked.append(rows.labels[rows.labels >= 0].tolist())
        return 0.0

    monkeypatch.setattr(text_by_context, "bits_per_character", noted)
    bits_by_context(decoder, torch.arange(1_000), (4, 300), 5)
    assert asked[0] == asked[1]
    assert len(asked[0]) == 5 * 64
