"""Requests: their lengths are ShareGPT's, and they arrive by a Poisson process."""

from itertools import pairwise
from statistics import fmean, pstdev

import pytest

from yearling.systems.request_lengths import draw_arrivals, draw_requests


def test_requests_have_the_published_mean_lengths_and_fit() -> None:
    drawn = draw_requests(0, 4000, 2048, lambda length, place: range(length))
    prompts = [len(request.prompt) for request in drawn]
    news = [request.num_new for request in drawn]
    assert sum(prompts) / len(prompts) == pytest.approx(161.31, rel=0.05)
    assert sum(news) / len(news) == pytest.approx(337.99, rel=0.05)
    assert max(map(sum, zip(prompts, news, strict=True))) <= 2048
    assert min(prompts + news) >= 1


def test_requests_follow_from_their_seed() -> None:
    first, again, other = (
        draw_requests(seed, 8, 256, lambda length, place: [place] * length) for seed in (0, 0, 1)
    )
    assert first == again != other


def test_gaps_between_arrivals_are_exponential() -> None:
    times = draw_arrivals(0, 4000, per_second=5.0)
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert times[0] == 0.0
    assert fmean(gaps) == pytest.approx(1 / 5, rel=0.05)
    assert pstdev(gaps) == pytest.approx(1 / 5, rel=0.1)  # as long as the mean: no other is so
