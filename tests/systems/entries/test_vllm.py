"""vLLM's measure: sharing is what is measured."""

from pathlib import Path

import pytest

from yearling.systems.entries import vllm
from yearling.systems.system import Trial


def trial(folder: Path, *, is_ablated: bool = False) -> Trial:
    return Trial(0, is_ablated, folder, lambda _: None)


def test_shared_blocks_are_those_of_the_prompt(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    # Eleven or twelve blocks of the prompt are shared; the answers have their own.
    together = vllm.shared_blocks(trial(tmp_path), num_prompt=192, num_new=48)
    assert 100 * (11 + 4 * 3) / 60 <= together <= 100 * (12 + 4 * 4) / 60
    apart = vllm.shared_blocks(trial(tmp_path, is_ablated=True), num_prompt=192, num_new=48)
    assert apart == 100.0
