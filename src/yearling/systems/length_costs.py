"""What a decoder costs by the length of its text: time, memory of a sequence, speed of answers.

Time is the processor's, and one thread computes: others on the machine matter less then, and how
well two threads share the work of so small a decoder is not the question. Answers and streams run
on the native core; whole texts are read by torch, where all lengths are one call each.
"""

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from time import process_time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from yearling.models.torch_decoder import TorchDecoder
    from yearling.serving.engine import Engine
    from yearling.serving.executors.native import NativeExecutor

__all__ = [
    "Stream",
    "exponent",
    "kept_bytes",
    "num_fitting",
    "prefill_seconds",
    "served",
    "speed_of_answers",
    "stream",
    "write_folder",
]

_STEP_TOKENS = 512
_FLOAT_BYTES = 4


def write_folder(decoder: "TorchDecoder", folder: Path) -> None:
    """Write a decoder as a Hugging Face folder without a tokenizer.

    Args:
        folder: To be made.
    """
    from safetensors.torch import save_file

    from yearling.models.families import families

    family = families.get(decoder.spec.family)
    assert family.config_from_spec is not None, "the families compared here can be written"
    folder.mkdir(parents=True)
    tensors = {name: tensor.contiguous() for name, tensor in decoder.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.dumps(family.config_from_spec(decoder.spec))
    (folder / "config.json").write_text(config, encoding="utf-8")


@contextmanager
def served(
    folder: Path, *, context: int, cache_bytes: int, max_sequences: int
) -> "Iterator[NativeExecutor]":
    """Load a folder into the native core, in float32 and for one thread.

    Args:
        folder: As `write_folder` leaves it.
        context: Tokens of the longest sequence.
        cache_bytes: Room for keys, values and states.
        max_sequences: Sequences that may run at once.
    """
    from yearling.models.checkpoint import open_checkpoint
    from yearling.serving.executors.native import NativeExecutor

    checkpoint = open_checkpoint(folder)
    executor = NativeExecutor.load(
        checkpoint,
        weights="float32",
        kv_type="float32",
        cache_bytes=cache_bytes,
        context=context,
        max_sequences=max_sequences,
        max_step_tokens=_STEP_TOKENS,
        threads=1,
    )
    checkpoint.close()
    try:
        yield executor
    finally:
        executor.close()


# --- time by length ----------------------------------------------------------------------------


def exponent(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """Fit seconds = constant * length ** exponent, by least squares of the logarithms.

    >>> round(exponent([1, 2, 4], [3.0, 12.0, 48.0]), 6)
    2.0
    """
    import numpy as np

    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])


def prefill_seconds(
    decoder: "TorchDecoder", lengths: Sequence[int], num_rounds: int
) -> list[float]:
    """Give the median processor seconds that one sequence of each length takes in torch.

    Lengths come in turn, round by round, so that a slow moment of the machine meets all of them.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    taken: dict[int, list[float]] = {length: [] for length in lengths}
    try:
        for _ in range(num_rounds):
            for length in lengths:
                taken[length].append(_seconds(decoder, length))
    finally:
        torch.set_num_threads(before)
    return [median(taken[length]) for length in lengths]


def _seconds(decoder: "TorchDecoder", length: int) -> float:
    import torch

    from yearling.models.torch_decoder import Segments

    tokens = torch.arange(length) % decoder.spec.vocabulary
    decoder.eval()
    started = process_time()
    with torch.no_grad():
        decoder(tokens, Segments([length]))
    return process_time() - started


# --- answers -----------------------------------------------------------------------------------


def kept_bytes(decoder: "TorchDecoder", num_tokens: int) -> int:
    """Give the bytes that one sequence of a length leaves behind for its next token, in float32."""
    from yearling.models.spec import StateSpace

    floats = 0
    for layer in decoder.spec.layers:
        mixer = layer.mixer
        if isinstance(mixer, StateSpace):
            floats += mixer.inner * (mixer.state + mixer.convolution - 1)
        else:
            floats += 2 * mixer.kv_heads * mixer.head_dim * num_tokens
    return _FLOAT_BYTES * floats


def num_fitting(executor: "NativeExecutor", num_tokens: int) -> int:
    """Give the sequences of a length that the cache has room for, up to what a step may hold."""
    [shape] = executor.cache_shapes
    if shape.kind == "state":
        return shape.num_blocks
    return min(
        shape.num_blocks // math.ceil(num_tokens / executor.block_size), executor.max_logit_rows
    )


def speed_of_answers(
    executor: "NativeExecutor", prompts: Sequence[Sequence[int]], num_new: int
) -> float:
    """Give tokens a processor second once all prompts are read, by the median step.

    Args:
        executor: Has room for all of them.
        prompts: Of any lengths.
        num_new: Steps that are measured.
    """
    engine = _new_engine(executor)
    # An early prompt goes on while later ones are read, so there must be enough to say for all.
    steps_to_read = sum(len(prompt) for prompt in prompts) // executor.max_step_tokens + 1
    _add(engine, prompts, num_new + 2 * steps_to_read)
    seconds: list[float] = []
    while engine.has_work and len(seconds) < num_new:
        before = engine.stats().generated_tokens
        started = process_time()
        engine.step()
        passed = process_time() - started
        if engine.stats().generated_tokens - before == len(prompts):
            seconds.append(passed)
    engine.cancel_all()
    assert seconds, f"no step answered all sequences: {engine.error}"
    return len(prompts) / median(seconds)


def _new_engine(executor: "NativeExecutor") -> "Engine":
    from yearling.serving.engine import Engine

    return Engine(executor, None, context=executor.context, eos_token_ids=())


def _add(engine: "Engine", prompts: Sequence[Sequence[int]], num_new: int) -> None:
    from yearling.systems.driving import FixedRequest, new_request

    for prompt in prompts:
        engine.add(new_request(FixedRequest(prompt, num_new)))


# --- one long text -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    """What became of one long prompt.

    Attributes:
        answer: Id that the model gives behind it.
        tokens_per_second: Of processor time, by the median step.
        end_over_start: Speed over its last tenth by that over its first.
        growth_mb: Resident memory, the most after a tenth less that at a tenth, in 10^6 bytes.
    """

    answer: int
    tokens_per_second: float
    end_over_start: float
    growth_mb: float


def stream(executor: "NativeExecutor", prompt: Sequence[int]) -> Stream:
    """Read a prompt of twenty steps at least, and watch time and memory."""
    engine = _new_engine(executor)
    _add(engine, [prompt], 1)
    num_steps = -(-len(prompt) // executor.max_step_tokens)
    seconds: list[float] = []
    resident: list[float] = []
    tenths = [num_steps * tenth // 10 for tenth in range(11)]
    answer = -1
    for first, last in pairwise(tenths):
        for _ in range(first, last):
            started = process_time()
            events = engine.step()
            seconds.append(process_time() - started)
            answer = next((token for event in events for token in event.tokens), answer)
        resident.append(_resident_mb())
    assert not engine.has_work, engine.error
    tenth = tenths[1]
    return Stream(
        answer,
        executor.max_step_tokens / median(seconds),
        median(seconds[:tenth]) / median(seconds[-tenth:]),
        max(resident[1:]) - resident[0],
    )


def _resident_mb() -> float:
    """Resident memory of this process now, in 10^6 bytes."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
