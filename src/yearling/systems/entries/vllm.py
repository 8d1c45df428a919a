"""vLLM: paged attention, continuous batching and shared blocks, measured on our own engine.

Keys and values lie in blocks of 16 tokens that a sequence takes as it grows and shares with
others, so that nearly all of the cache holds tokens, more sequences run at once, and a step
computes more tokens for one reading of the weights. The opponents run on the same engine and
kernels, with its paging made useless: `systems.contiguous_cache` has them.

Source: Kwon et al. 2023, arXiv:2309.06180.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from yearling.systems.contiguous_cache import measure_arrivals, measure_cache_use, measure_speed
from yearling.systems.driving import FixedRequest, RecordedSteps, answers, new_engine, new_request
from yearling.systems.request_lengths import MEAN_ANSWER, MEAN_PROMPT
from yearling.systems.serving_models import (
    VOCABULARY,
    random_prompt,
    real_model,
    reference,
    tiny_executor,
)
from yearling.systems.system import Ablation, Check, Published, System, Trial, systems

__all__ = ["shared_blocks", "system"]

_NUM_GREEDY = 34  # per seed; 102 prompts in all
_GREEDY_LENGTHS = (12, 24, 48, 96)
_GREEDY_NEW = 16
_NUM_LEAK_REQUESTS = 1_700  # per seed; 5,100 in all
_FEW_BLOCKS = 14


def _run(trial: Trial) -> Mapping[str, float]:
    figures = {
        **measure_cache_use(trial),
        **measure_speed(trial),
        **measure_arrivals(trial),
        **_sharing(trial),
    }
    if not trial.is_ablated:  # these are promises that reservation keeps as well
        figures |= {**_greedy(trial), **_preemption(trial), **_leaks(trial)}
    return figures


def _sharing(trial: Trial) -> dict[str, float]:
    trial.say("sharing: four samples of each prompt")
    return {
        "shared_blocks": shared_blocks(trial, num_prompt=192, num_new=48),
        "shared_blocks_sharegpt": shared_blocks(trial, num_prompt=161, num_new=338),
    }


def shared_blocks(trial: Trial, num_prompt: int, num_new: int) -> float:
    """Give the blocks that four samples of one prompt hold, in percent of what they hold apart."""
    context = num_prompt + num_new
    prompt = random_prompt(num_prompt, trial.seed)
    with tiny_executor(trial.folder, cache_bytes=4 << 20, context=context) as executor:
        recorded = RecordedSteps(executor)
        engine = new_engine(recorded, is_sharing=not trial.is_ablated)
        samples = [
            new_request(
                FixedRequest(prompt, num_new), temperature=1.0, seed=4 * trial.seed + number
            )
            for number in range(4)
        ]
        engine.add(samples[0])
        while not engine.stats().generated_tokens:  # the others find what it has computed
            engine.step()
        for sample in samples[1:]:
            engine.add(sample)
        while engine.has_work:
            engine.step()
    # The first sample is a few steps ahead, so the peak falls where all four still run.
    full = [n for n, number in zip(recorded.num_blocks_held, recorded.num_sequences, strict=True)
            if number == 4]  # fmt: skip
    apart = 4 * -(-(context - 1) // recorded.block_size)
    return 100.0 * max(full) / apart


def _greedy(trial: Trial) -> dict[str, float]:
    """Share of prompts that the engine, in one batch, continues as transformers does."""
    import torch

    trial.say(f"greedy: {_NUM_GREEDY} prompts against transformers")
    model = real_model()
    prompts = [
        model.prompt(_GREEDY_LENGTHS[number % len(_GREEDY_LENGTHS)], 7919 * trial.seed + number)
        for number in range(_NUM_GREEDY)
    ]
    ours = answers(
        new_engine(RecordedSteps(model.executor)),
        [FixedRequest(one, _GREEDY_NEW) for one in prompts],
    )
    theirs: dict[int, list[int]] = {}
    for length in _GREEDY_LENGTHS:  # equal lengths in a batch need no padding
        numbers = [number for number, prompt in enumerate(prompts) if len(prompt) == length]
        with torch.inference_mode():
            ids = torch.tensor([prompts[number] for number in numbers])
            made = reference().generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=_GREEDY_NEW,
                pad_token_id=0,
            )
        theirs.update(zip(numbers, made[:, length:].tolist(), strict=True))
    return {"greedy_identical": _percent_equal(ours, [theirs[n] for n in range(_NUM_GREEDY)])}


def _preemption(trial: Trial) -> dict[str, float]:
    """Share of answers that are the same although their sequences were thrown out."""
    trial.say(f"preemption: the same requests with {_FEW_BLOCKS} blocks")
    model = real_model()
    requests = [FixedRequest(model.prompt(30, 104_729 * trial.seed + n), 40) for n in range(6)]
    roomy = answers(new_engine(RecordedSteps(model.executor)), requests)
    engine = new_engine(RecordedSteps(model.executor, _FEW_BLOCKS))
    tight = answers(engine, requests)
    return {
        "preempted_identical": _percent_equal(tight, roomy),
        "preemptions": float(engine.stats().num_preemptions),
    }


def _leaks(trial: Trial) -> dict[str, float]:
    """Blocks that are not free after many requests: finished, cancelled, shared, preempted."""
    import numpy as np

    trial.say(f"leaks: {_NUM_LEAK_REQUESTS} requests on the tiny model")
    random = np.random.default_rng(trial.seed)
    with tiny_executor(trial.folder, cache_bytes=4 << 20, context=96) as executor:
        engine = new_engine(RecordedSteps(executor, 40))
        for _ in range(_NUM_LEAK_REQUESTS):
            start = int(random.integers(0, 8))  # few starts, so that many prompts are shared
            prompt = [(start + place) % VOCABULARY for place in range(random.integers(1, 49))]
            request = new_request(FixedRequest(prompt, int(random.integers(1, 13))))
            engine.add(request)
            if random.random() < 0.1:
                engine.cancel(request.request_id)
            while engine.stats().num_waiting > 4:
                engine.step()
        while engine.has_work:
            engine.step()
        stats = engine.stats()
    return {
        "leaked_blocks": float(stats.num_blocks - stats.num_free_blocks),
        "leak_preemptions": float(stats.num_preemptions),
    }


def _percent_equal(some: Sequence[list[int]], others: Sequence[list[int]]) -> float:
    return 100.0 * fmean([one == other for one, other in zip(some, others, strict=True)])


system = systems.register(
    System(
        slug="vllm",
        claim=(
            "Fast serving of language models: paged attention wastes almost none of the cache, "
            "so that providers can offer models easily, quickly and cheaply."
        ),
        published=Published(
            "waste below 4 % of the cache; 2 to 4 times the throughput of FasterTransformer and "
            "Orca at equal latency",
            "Kwon et al. 2023, arXiv:2309.06180, sections 1 and 6",
        ),
        honesty=(
            "One model of 135 million parameters in float32 on a CPU with 64 MiB for keys and "
            "values. The opponents are our own engine and kernels under older disciplines, not "
            "FasterTransformer or Orca. Speeds are tokens per second with all requests waiting, or "
            "while 40 arrive by a Poisson process three times as fast as static batches serve "
            "them; latencies are not compared. speed_over_reserved tells what paging adds to "
            "batches that change at every step, which here is the smaller part of the speed. "
            "Lengths are log-normal with ShareGPT's published means: as they are where the use "
            "of the cache is counted, on a tiny model; divided by 8, with a longest request of "
            "256 tokens, where time is. Four samples stay within 60 % of the blocks only where "
            "the prompt is longer than the answers, so that check takes 192 and 48 tokens; "
            "shared_blocks_sharegpt tells the share at ShareGPT's means."
        ),
        parts=(
            "serving.engine",
            "serving.scheduler",
            "serving.cache",
            "serving.executors.native",
            "models.families.llama",
        ),
        checks=(
            Check(
                "kv_waste",
                "%",
                "Share of the cache taken that holds no token, at ShareGPT's lengths.",
                at_most=4.0,
                is_worst_judged=True,
            ),
            Check(
                "reservation_waste",
                "%",
                "The same when each request reserves room for 2,048 tokens.",
                at_least=50.0,
                is_worst_judged=True,
            ),
            Check(
                "speed_over_static",
                "x",
                "Useful tokens per second against static padded batches in the same cache.",
                at_least=2.0,
            ),
            Check(
                "speed_over_single",
                "x",
                "Tokens per second against one request after the other.",
                at_least=3.0,
            ),
            Check(
                "arrivals_over_static",
                "x",
                "Tokens per second against static padded batches, while requests keep arriving.",
                at_least=2.0,
            ),
            Check(
                "concurrency",
                "x",
                "Sequences running on average, against those that reservation has room for.",
                at_least=2.0,
            ),
            Check(
                "shared_blocks",
                "%",
                "Blocks that four samples of one prompt hold, of what they would hold apart.",
                at_most=60.0,
                is_worst_judged=True,
            ),
            Check(
                "greedy_identical",
                "%",
                "Share of prompts continued token for token as transformers' generate does.",
                at_least=100.0,
                is_worst_judged=True,
            ),
            Check(
                "preempted_identical",
                "%",
                "Share of answers that do not change when sequences are thrown out on the way.",
                at_least=100.0,
                is_worst_judged=True,
            ),
            Check(
                "preemptions",
                "",
                "Times that a sequence was thrown out in that test.",
                at_least=1.0,
                is_worst_judged=True,
            ),
            Check(
                "leaked_blocks",
                "blocks",
                "Blocks not free after 1,700 requests a seed, cancelled and preempted among them.",
                at_most=0.0,
                is_worst_judged=True,
            ),
        ),
        run=_run,
        ablation=Ablation(
            "paging, sharing and batches that change off: reserved room, static padded batches",
            breaks=(
                "kv_waste",
                "speed_over_static",
                "speed_over_single",
                "arrivals_over_static",
                "concurrency",
                "shared_blocks",
            ),
        ),
        paper={
            "model": "facebook/opt-13b",
            "hardware": "one A100 with 40 GB",
            "executor": "torch",
            "device": "cuda",
            "weights": "float16",
            "kv_type": "float16",
            "block_tokens": 16,
            "context": 2048,
            "workload": {
                "lengths": "ShareGPT",
                "mean_prompt_tokens": MEAN_PROMPT,
                "mean_answer_tokens": MEAN_ANSWER,
                "arrivals": "Poisson",
                "trace_seconds": 3600,
            },
            "opponents": ["FasterTransformer", "Orca (max)", "Orca (pow2)", "Orca (oracle)"],
        },
    ),
    __name__,
)
