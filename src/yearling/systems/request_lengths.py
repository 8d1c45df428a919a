"""Requests as long as people's: the lengths that serving systems of the year were measured with.

Source: Kwon et al. 2023, arXiv:2309.06180, section 6.1 and figure 11.
"""

from collections.abc import Callable, Sequence

from yearling.systems.driving import FixedRequest

__all__ = ["LONGEST", "MEAN_ANSWER", "MEAN_PROMPT", "draw_arrivals", "draw_requests"]

MEAN_PROMPT, MEAN_ANSWER = 161.31, 337.99
"""Tokens of ShareGPT's prompts and answers, on average."""

LONGEST = 2048
"""Tokens that the paper's models can hold, which older systems reserve for each request."""

_SPREAD = 0.8  # of the logarithm; the paper draws its histogram and gives no figure


def draw_requests(
    seed: int, number: int, longest: int, prompt_of: Callable[[int, int], Sequence[int]]
) -> list[FixedRequest]:
    """Draw requests with ShareGPT's mean lengths, scaled to a longest one.

    Args:
        seed: Of lengths and of the places where prompts are cut.
        number: Of requests.
        longest: Tokens of prompt and answer together; the paper's is 2,048.
        prompt_of: Gives a prompt of a length, from a random number.
    """
    import numpy as np

    random = np.random.default_rng(seed)
    scale = longest / LONGEST
    prompts, answers = (
        # The mean of a log-normal variable lies spread²/2 above its median, in logarithms.
        random.lognormal(np.log(mean * scale) - _SPREAD**2 / 2, _SPREAD, number)
        for mean in (MEAN_PROMPT, MEAN_ANSWER)
    )
    places = random.integers(0, 2**31, number)
    requests = []
    for prompt, answer, place in zip(prompts, answers, places, strict=True):
        num_prompt = int(np.clip(round(prompt), 1, longest // 2))
        num_new = int(np.clip(round(answer), 1, longest - num_prompt))
        requests.append(FixedRequest(prompt_of(num_prompt, int(place)), num_new))
    return requests


def draw_arrivals(seed: int, number: int, per_second: float) -> list[float]:
    """Draw when requests arrive, in seconds from the first one, by a Poisson process.

    >>> times = draw_arrivals(0, 4_000, per_second=2.0)
    >>> times[0], round(times[-1] / 2_000, 1)
    (0.0, 1.0)
    """
    import numpy as np

    gaps = np.random.default_rng(seed).exponential(1 / per_second, number)
    gaps[0] = 0.0
    return [float(time) for time in np.cumsum(gaps)]
