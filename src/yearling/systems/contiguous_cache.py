"""A cache of blocks against one of contiguous room, on our own engine and kernels.

Older systems reserve room for the longest answer there may be: each request alone, in static
padded batches, or one after the other. The same requests run under these disciplines and under
the engine's own, all waiting at the start or arriving by a Poisson process.

Source: Kwon et al. 2023, arXiv:2309.06180, sections 3 and 6.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean
from time import perf_counter, sleep

from yearling.systems.driving import FixedRequest, RecordedSteps, drive, new_engine, new_request
from yearling.systems.request_lengths import LONGEST, draw_arrivals, draw_requests
from yearling.systems.serving_models import (
    REAL_LONGEST,
    random_prompt,
    real_model,
    tiny_executor,
)
from yearling.systems.system import Curve, Trial

__all__ = ["measure_arrivals", "measure_cache_use", "measure_speed"]

_PAPER_CACHE_TOKENS = 15_360  # about what the paper's 13B model leaves room for on 40 GB
_NUM_REQUESTS = 56
_NUM_ARRIVING = 40
_OVERLOAD = 3.0  # tokens asked for a second, over what static batches give


def measure_cache_use(trial: Trial) -> dict[str, float]:
    """Share of the cache taken that holds no token, at the paper's own lengths."""
    trial.say("cache: 120 requests of ShareGPT's lengths on a tiny model")
    requests = draw_requests(trial.seed, 120, LONGEST, random_prompt)
    with tiny_executor(trial.folder, cache_bytes=16 << 20, context=LONGEST) as executor:
        num_blocks = _PAPER_CACHE_TOKENS // executor.block_size
        paged = RecordedSteps(executor, num_blocks)
        drive(new_engine(paged), requests, is_saturated=True)
        reserved = RecordedSteps(executor, num_blocks)
        slots = _PAPER_CACHE_TOKENS // LONGEST
        drive(new_engine(reserved, slots), requests, is_saturated=True)
    paged_waste = _waste(paged.num_held, [n * paged.block_size for n in paged.num_blocks_held])
    reserved_waste = _waste(reserved.num_held, [n * LONGEST for n in reserved.num_sequences])
    return {
        "kv_waste": reserved_waste if trial.is_ablated else paged_waste,
        "reservation_waste": reserved_waste,
    }


def _waste(held: Sequence[int], taken: Sequence[int]) -> float:
    return 100.0 * (1.0 - sum(held) / sum(taken))


@dataclass(frozen=True)
class _Baselines:
    """Useful tokens per second of older disciplines, over the first of the same requests."""

    static_speed: float
    single_speed: float


def measure_speed(trial: Trial) -> dict[str, float]:
    """Tokens per second while requests wait, against two ways of running them."""
    requests = _requests(trial.seed, _NUM_REQUESTS)
    trial.say("speed: static padded batches, then one request after the other")
    baselines = _baselines(trial.seed)
    executor = RecordedSteps(real_model().executor)
    slots = executor.num_cache_tokens // REAL_LONGEST
    if trial.is_ablated:  # the same discipline as the baseline, over requests of its own
        trial.say("speed: static padded batches again")
        batches = _batches(requests[-3 * slots :], slots)
        speed = _rate([_static_batch(executor, batch) for batch in batches])
    else:
        trial.say("speed: requests in and out as room comes free")
        speed = _continuous_speed(trial, executor, requests)
    figures = {
        "speed_over_static": speed / baselines.static_speed,
        "speed_over_single": speed / baselines.single_speed,
        "concurrency": fmean(executor.num_sequences) / slots,
        "tokens_per_second": speed,
        "static_tokens_per_second": baselines.static_speed,
        "single_tokens_per_second": baselines.single_speed,
    }
    if not trial.is_ablated:
        trial.say("speed: in and out, but each request reserves its room")
        reserved = _continuous_speed(trial, RecordedSteps(real_model().executor), requests, slots)
        figures["speed_over_reserved"] = speed / reserved
    return figures


def _continuous_speed(
    trial: Trial,
    executor: RecordedSteps,
    requests: Sequence[FixedRequest],
    slots: int | None = None,
) -> float:
    """Tokens per second as long as requests wait; with slots, each request reserves one."""
    engine = new_engine(executor, slots)
    asked = requests if slots is None else requests[: 6 * slots]
    started = perf_counter()
    num_tokens = drive(engine, asked, is_saturated=True)
    speed = num_tokens / (perf_counter() - started)
    trial.curves.append(
        Curve(
            "blocks as they are needed" if slots is None else "room for 256 tokens each",
            "step",
            "sequences running while others wait",
            list(enumerate(executor.num_sequences, start=1)),
        )
    )
    return speed


@cache
def _baselines(seed: int) -> _Baselines:
    executor = RecordedSteps(real_model().executor)
    slots = executor.num_cache_tokens // REAL_LONGEST
    requests = _requests(seed, _NUM_REQUESTS)
    static = [_static_batch(executor, batch) for batch in _batches(requests[: 4 * slots], slots)]
    single = [_static_batch(executor, [one]) for one in requests[:8]]
    return _Baselines(_rate(static), _rate(single))


def _static_batch(executor: RecordedSteps, batch: Sequence[FixedRequest]) -> tuple[int, float]:
    """Run a batch padded to its longest prompt and answer; give its useful tokens and seconds.

    Padding is computed like any token, as a batched `generate` does, and counts for nothing.
    """
    num_prompt = max(len(one.prompt) for one in batch)
    num_new = max(one.num_new for one in batch)
    padded = [FixedRequest(_repeated(one.prompt, num_prompt), num_new) for one in batch]
    engine = new_engine(executor, len(batch))
    started = perf_counter()
    drive(engine, padded)
    return sum(one.num_new for one in batch), perf_counter() - started


def _repeated(prompt: Sequence[int], length: int) -> list[int]:
    return (list(prompt) * (length // len(prompt) + 1))[:length]


def _rate(runs: Iterable[tuple[int, float]]) -> float:
    tokens, seconds = zip(*runs, strict=True)
    return float(sum(tokens) / sum(seconds))


def _batches(requests: Sequence[FixedRequest], size: int) -> Iterator[Sequence[FixedRequest]]:
    yield from (requests[start : start + size] for start in range(0, len(requests), size))


def measure_arrivals(trial: Trial) -> dict[str, float]:
    """Tokens per second while requests arrive three times as fast as static batches serve them."""
    trial.say("arrivals: static padded batches of whatever waits")
    static = _static_under_arrivals(trial.seed)
    requests, times = _arriving(trial.seed)
    executor = RecordedSteps(real_model().executor)
    if trial.is_ablated:
        trial.say("arrivals: static padded batches again")
        speed = _serve_static(executor, requests[::-1], times)
    else:
        trial.say("arrivals: requests in and out as they come")
        speed = _serve_continuous(executor, requests, times)
    return {
        "arrivals_over_static": speed / static,
        "arrivals_tokens_per_second": speed,
        "arrivals_static_tokens_per_second": static,
    }


@cache
def _static_under_arrivals(seed: int) -> float:
    return _serve_static(RecordedSteps(real_model().executor), *_arriving(seed))


def _arriving(seed: int) -> tuple[list[FixedRequest], list[float]]:
    requests = _requests(seed, _NUM_ARRIVING)
    tokens_per_second = _OVERLOAD * _baselines(seed).static_speed
    per_second = tokens_per_second / fmean(request.num_new for request in requests)
    return requests, draw_arrivals(seed, _NUM_ARRIVING, per_second)


def _serve_continuous(
    executor: RecordedSteps, requests: Sequence[FixedRequest], times: Sequence[float]
) -> float:
    """Tokens per second until the last request arrives."""
    engine = new_engine(executor)
    waiting = deque(zip(times, requests, strict=True))
    before, started = engine.stats().generated_tokens, perf_counter()
    while waiting:
        now = perf_counter() - started
        while waiting and waiting[0][0] <= now:
            engine.add(new_request(waiting.popleft()[1]))
        if engine.has_work:
            engine.step()
        elif waiting:
            sleep(waiting[0][0] - now)
    seconds = perf_counter() - started
    engine.cancel_all()
    return (engine.stats().generated_tokens - before) / seconds


def _serve_static(
    executor: RecordedSteps, requests: Sequence[FixedRequest], times: Sequence[float]
) -> float:
    """Useful tokens per second until the batch ends during which the last request arrives."""
    slots = executor.num_cache_tokens // REAL_LONGEST
    waiting = deque(zip(times, requests, strict=True))
    num_tokens, started = 0, perf_counter()
    while (now := perf_counter() - started) < times[-1]:
        arrived = sum(time <= now for time, _ in waiting)
        batch = [waiting.popleft()[1] for _ in range(min(slots, arrived))]
        if batch:
            num_tokens += _static_batch(executor, batch)[0]
        else:
            sleep(waiting[0][0] - now)
    return num_tokens / (perf_counter() - started)


def _requests(seed: int, number: int) -> list[FixedRequest]:
    return draw_requests(seed, number, REAL_LONGEST, real_model().prompt)
