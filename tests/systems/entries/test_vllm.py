"""vLLM's measure: the lengths are ShareGPT's, and sharing and paging are what is measured."""

from pathlib import Path

import pytest

from yearling.systems.entries import vllm
from yearling.systems.system import Trial


def trial(folder: Path, *, is_ablated: bool = False) -> Trial:
    return Trial(0, is_ablated, folder, lambda _: None)


def test_requests_have_the_published_mean_lengths_and_fit() -> None:
    drawn = vllm.draw_requests(0, 4000, 2048, lambda length, place: range(length))
    prompts = [len(request.prompt) for request in drawn]
    news = [request.num_new for request in drawn]
    assert sum(prompts) / len(prompts) == pytest.approx(161.31, rel=0.05)
    assert sum(news) / len(news) == pytest.approx(337.99, rel=0.05)
    assert max(map(sum, zip(prompts, news, strict=True))) <= 2048
    assert min(prompts + news) >= 1


def test_requests_follow_from_their_seed() -> None:
    first, again, other = (
        vllm.draw_requests(seed, 8, 256, lambda length, place: [place] * length)
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_shared_blocks_are_those_of_the_prompt(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    # Eleven or twelve blocks of the prompt are shared; the answers have their own.
    together = vllm.shared_blocks(trial(tmp_path), num_prompt=192, num_new=48)
    assert 100 * (11 + 4 * 3) / 60 <= together <= 100 * (12 + 4 * 4) / 60
    apart = vllm.shared_blocks(trial(tmp_path, is_ablated=True), num_prompt=192, num_new=48)
    assert apart == 100.0
