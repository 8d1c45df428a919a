"""Mamba's row: sizes are equal, and one token after another is the same as all at once."""

from dataclasses import replace

import pytest
import torch

from yearling.systems.entries import mamba
from yearling.systems.mamba_decoders import Task, decoder_config
from yearling.systems.selection_tasks import small_decoder

TASKS = [mamba._INDUCTION, mamba._SOURCES]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_decoders_of_a_task_are_equally_large(task: Task) -> None:
    sizes = [
        sum(weight.numel() for weight in small_decoder(config, 0, 0.1).parameters())
        for config in (decoder_config("mamba", task), decoder_config("attention", task))
    ]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.02)


def test_one_token_after_another_is_the_same_as_all_at_once() -> None:
    task = replace(mamba._SOURCES, width=16, mamba_layers=2)
    decoder = small_decoder(decoder_config("mamba", task), seed=0, std=0.3)
    tokens = torch.randint(128, (90,), generator=torch.Generator().manual_seed(2))
    assert mamba.recurrent_difference(decoder, tokens) < 1e-5


def test_a_state_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = replace(mamba._SOURCES, width=16, mamba_layers=2)
    decoder = small_decoder(decoder_config("mamba", task), seed=0, std=0.3)
    monkeypatch.setattr(mamba._KeptStates, "keep_state", lambda *_: None)
    tokens = torch.randint(128, (90,), generator=torch.Generator().manual_seed(2))
    assert mamba.recurrent_difference(decoder, tokens) > 1e-2
