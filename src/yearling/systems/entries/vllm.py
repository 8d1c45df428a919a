"""vLLM: paged attention, continuous batching and shared blocks, measured on our own engine.

Keys and values lie in blocks of 16 tokens that a sequence takes as it grows and shares with
others, so that nearly all of the cache holds tokens, more sequences run at once, and a step
computes more tokens for one reading of the weights. The opponents run on the same engine and
kernels, with its paging made useless: each request reserves room for the longest answer there may
be, alone, in static padded batches, or one after the other.

Source: Kwon et al. 2023, arXiv:2309.06180.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from yearling.systems.driving import (
    FixedRequest,
    RecordedSteps,
    answers,
    drive,
    new_engine,
    new_request,
)
from yearling.systems.system import Ablation, Check, Curve, Published, System, Trial, systems

if TYPE_CHECKING:
    from yearling.serving.model import LoadedExecutor

__all__ = ["draw_requests", "shared_blocks", "system", "tiny_executor"]

_MEAN_PROMPT, _MEAN_ANSWER = 161.31, 337.99  # tokens of ShareGPT in the paper, section 6.1
_SPREAD = 0.8  # of the logarithm; the paper draws its histogram and gives no figure
_LONGEST = 2048  # tokens its models can hold, which older systems reserve for each request
_PAPER_CACHE_TOKENS = 15_360  # about what the paper's 13B model leaves room for on 40 GB

_REAL_LONGEST = 256  # the same lengths divided by 8, so that a run takes seconds
_REAL_CACHE_BYTES = 64 << 20
_NUM_REAL = 56

_NUM_GREEDY = 34  # per seed; 102 prompts in all
_GREEDY_LENGTHS = (12, 24, 48, 96)
_GREEDY_NEW = 16
_NUM_LEAK_REQUESTS = 1_700  # per seed; 5,100 in all
_FEW_BLOCKS = 14
_VOCABULARY = 256

_TINY_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": _VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": _LONGEST,
    "tie_word_embeddings": False,
}
_TINY_SHAPES = {
    "model.embed_tokens.weight": (_VOCABULARY, 32),
    "model.layers.0.input_layernorm.weight": (32,),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.k_proj.weight": (16, 32),
    "model.layers.0.self_attn.v_proj.weight": (16, 32),
    "model.layers.0.self_attn.o_proj.weight": (32, 32),
    "model.layers.0.post_attention_layernorm.weight": (32,),
    "model.layers.0.mlp.gate_proj.weight": (64, 32),
    "model.layers.0.mlp.up_proj.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
    "model.norm.weight": (32,),
    "lm_head.weight": (_VOCABULARY, 32),
}


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
    scale = longest / _LONGEST
    prompts, answers = (
        # The mean of a log-normal variable lies spread²/2 above its median, in logarithms.
        random.lognormal(np.log(mean * scale) - _SPREAD**2 / 2, _SPREAD, number)
        for mean in (_MEAN_PROMPT, _MEAN_ANSWER)
    )
    places = random.integers(0, 2**31, number)
    requests = []
    for prompt, answer, place in zip(prompts, answers, places, strict=True):
        num_prompt = int(np.clip(round(prompt), 1, longest // 2))
        num_new = int(np.clip(round(answer), 1, longest - num_prompt))
        requests.append(FixedRequest(prompt_of(num_prompt, int(place)), num_new))
    return requests


def _run(trial: Trial) -> Mapping[str, float]:
    figures = {
        **_cache_use(trial),
        **_speed(trial),
        **_sharing(trial),
    }
    if not trial.is_ablated:  # these are promises that reservation keeps as well
        figures |= {**_greedy(trial), **_preemption(trial), **_leaks(trial)}
    return figures


# --- how much of the cache holds tokens --------------------------------------------------------


def _cache_use(trial: Trial) -> dict[str, float]:
    """Share of the cache taken that holds no token, at the paper's own lengths."""
    trial.say("cache: 120 requests of ShareGPT's lengths on a tiny model")
    requests = draw_requests(trial.seed, 120, _LONGEST, _random_prompt)
    with tiny_executor(trial.folder, cache_bytes=16 << 20, context=_LONGEST) as executor:
        num_blocks = _PAPER_CACHE_TOKENS // executor.block_size
        paged = RecordedSteps(executor, num_blocks)
        drive(new_engine(paged), requests, is_saturated=True)
        reserved = RecordedSteps(executor, num_blocks)
        slots = _PAPER_CACHE_TOKENS // _LONGEST
        drive(new_engine(reserved, slots), requests, is_saturated=True)
    paged_waste = _waste(paged.num_held, [n * paged.block_size for n in paged.num_blocks_held])
    reserved_waste = _waste(reserved.num_held, [n * _LONGEST for n in reserved.num_sequences])
    return {
        "kv_waste": reserved_waste if trial.is_ablated else paged_waste,
        "reservation_waste": reserved_waste,
    }


def _waste(held: Sequence[int], taken: Sequence[int]) -> float:
    return 100.0 * (1.0 - sum(held) / sum(taken))


# --- tokens per second under a fixed budget ----------------------------------------------------


@dataclass(frozen=True)
class _Baselines:
    """Useful tokens per second of older disciplines, over the first of the same requests."""

    static_speed: float
    single_speed: float


def _speed(trial: Trial) -> dict[str, float]:
    """Tokens per second while requests wait, against two ways of running them."""
    requests = _real_requests(trial.seed, _NUM_REAL)
    trial.say("speed: static padded batches, then one request after the other")
    baselines = _baselines(trial.seed)
    executor = RecordedSteps(_real_model().executor)
    slots = executor.num_cache_tokens // _REAL_LONGEST
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
        "concurrency": _mean(executor.num_sequences) / slots,
        "tokens_per_second": speed,
        "static_tokens_per_second": baselines.static_speed,
        "single_tokens_per_second": baselines.single_speed,
    }
    if not trial.is_ablated:
        trial.say("speed: in and out, but each request reserves its room")
        reserved = _continuous_speed(trial, RecordedSteps(_real_model().executor), requests, slots)
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
    executor = RecordedSteps(_real_model().executor)
    slots = executor.num_cache_tokens // _REAL_LONGEST
    requests = _real_requests(seed, _NUM_REAL)
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


# --- sharing, sameness, preemption, leaks ------------------------------------------------------


def _sharing(trial: Trial) -> dict[str, float]:
    trial.say("sharing: four samples of each prompt")
    return {
        "shared_blocks": shared_blocks(trial, num_prompt=192, num_new=48),
        "shared_blocks_sharegpt": shared_blocks(trial, num_prompt=161, num_new=338),
    }


def shared_blocks(trial: Trial, num_prompt: int, num_new: int) -> float:
    """Give the blocks that four samples of one prompt hold, in percent of what they hold apart."""
    context = num_prompt + num_new
    prompt = _random_prompt(num_prompt, trial.seed)
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
    model = _real_model()
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
            made = _reference().generate(
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
    model = _real_model()
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
            prompt = [(start + place) % _VOCABULARY for place in range(random.integers(1, 49))]
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
    return 100.0 * _mean([one == other for one, other in zip(some, others, strict=True)])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# --- models and engines ------------------------------------------------------------------------


@dataclass(frozen=True)
class _RealModel:
    """SmolLM2 in float32, and English text to cut prompts from."""

    path: Path
    executor: "LoadedExecutor"
    text: Sequence[int]

    def prompt(self, length: int, place: int) -> Sequence[int]:
        start = place % (len(self.text) - length)
        return self.text[start : start + length]


@cache
def _real_model() -> _RealModel:
    from pydoc_data.topics import topics

    from yearling.models.store import ensure, resolve
    from yearling.serving.model import ModelOptions, load_executor, load_model

    ensure("smollm2")
    options = ModelOptions(
        weights="float32", kv_type="float32", cache_bytes=_REAL_CACHE_BYTES, context=_REAL_LONGEST
    )
    model = load_model("smollm2", options)
    assert model.tokenizer is not None, "the embedded model has a tokenizer"
    text = model.tokenizer.encode("\n".join(topics.values())[:200_000])
    return _RealModel(resolve("smollm2"), load_executor(model), text)


@cache
def _reference() -> Any:
    """The same weights in transformers, read by its own GGUF reader."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path = _real_model().path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    model.train(False)
    model.generation_config.eos_token_id = None  # answers of one length on both sides
    return model


def _real_requests(seed: int, number: int) -> list[FixedRequest]:
    return draw_requests(seed, number, _REAL_LONGEST, _real_model().prompt)


def _random_prompt(length: int, place: int) -> Sequence[int]:
    import numpy as np

    return [int(token) for token in np.random.default_rng(place).integers(0, _VOCABULARY, length)]


@contextmanager
def tiny_executor(folder: Path, *, cache_bytes: int, context: int) -> "Iterator[LoadedExecutor]":
    """Run a LLaMA of one small layer with random weights on the native core."""
    from yearling.serving.model import ModelOptions, load_executor, load_model

    options = ModelOptions(cache_bytes=cache_bytes, context=context, weights="float32")
    model = load_model(_tiny_model(folder), options)
    executor = load_executor(model)
    try:
        yield executor
    finally:
        executor.close()
        model.checkpoint.close()


def _tiny_model(folder: Path) -> Path:
    """Write the model as a Hugging Face folder, unless it is there."""
    import numpy as np
    from safetensors.numpy import save_file

    path = folder / "tiny"
    if path.exists():
        return path
    path.mkdir()
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(1.0 if len(shape) == 1 else 0.0, 0.2, shape).astype(np.float32)
        for name, shape in _TINY_SHAPES.items()
    }
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(_TINY_CONFIG))
    return path


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
            "FasterTransformer or Orca, and speeds are offline, with all requests waiting, not "
            "latencies under Poisson arrivals. speed_over_reserved tells what paging adds to "
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
                "mean_prompt_tokens": _MEAN_PROMPT,
                "mean_answer_tokens": _MEAN_ANSWER,
                "arrivals": "Poisson",
                "trace_seconds": 3600,
            },
            "opponents": ["FasterTransformer", "Orca (max)", "Orca (pow2)", "Orca (oracle)"],
        },
    ),
    __name__,
)
