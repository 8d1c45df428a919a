"""`yearling bench options`: what adapters, masks and guesses cost, or bring.

Every line is a ratio of medians of one engine in one process: calls with the option and calls
without it take turns; guesses are made on the very prompts that went without.
"""

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.serving.machine import busy_load
from benchmarks.serving.session import Progress
from benchmarks.serving.workload import english_text
from yearling import LLM, Guide, SamplingParams
from yearling.models.checkpoint import open_checkpoint
from yearling.models.store import resolve
from yearling.models.weights import weights_of

__all__ = ["OptionsReport", "run_options"]

_ADAPTERS = 4
_NEW_TOKENS = 64
_GUIDED_TOKENS = 128
_MODULES = {
    "query": "self_attn.q_proj",
    "key": "self_attn.k_proj",
    "value": "self_attn.v_proj",
    "output": "self_attn.o_proj",
    "gate": "mlp.gate_proj",
    "up": "mlp.up_proj",
    "down": "mlp.down_proj",
}
_GUIDES = {
    "JSON of a schema": Guide(
        json_schema={
            "type": "object",
            "properties": {"items": {"type": "array", "items": {"type": "string"}, "minItems": 60}},
            "required": ["items"],
            "additionalProperties": False,
        }
    ),
    "a regular expression": Guide(regex="[A-Za-z ,.]{400,2000}"),
    "a Lark grammar": Guide(grammar='start: word (" " word){200,400}\nword: /[a-z]+/'),
}

Call = Callable[[], float]
"""Makes one call, and gives back its tokens per second."""


@dataclass(frozen=True, slots=True)
class OptionsReport:
    """What a run found.

    Attributes:
        shares: Speed with an option over the speed without it.
        speeds: Tokens per second without and with it.
        warnings: What may have disturbed it.
    """

    shares: dict[str, float]
    speeds: dict[str, tuple[float, float]]
    warnings: Sequence[str]

    def as_text(self) -> str:
        """A line for each option."""
        width = max(map(len, self.shares))
        lines = [
            f"{name.ljust(width)}  {share:5.0%}  ({plain:.0f} tokens/s without, {other:.0f} with)"
            for (name, share), (plain, other) in zip(
                self.shares.items(), self.speeds.values(), strict=True
            )
        ]
        return "\n".join(["Speed with an option, medians", *lines, *self.warnings])

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "shares": self.shares,
            "tokens_per_second": self.speeds,
            "warnings": list(self.warnings),
        }


def run_options(model: str, repeats: int, progress: Progress) -> OptionsReport:
    """Measure every option.

    Args:
        model: Store name or file; of LLaMA's form, for the adapters.
        repeats: Calls of each kind; one more warms up.
        progress: Told what runs.
    """
    path = resolve(model)
    load_warning = busy_load()
    pieces = _pieces(english_text())
    pairs: Iterator[tuple[str, Call, Call]]
    shares: dict[str, float] = {}
    speeds: dict[str, tuple[float, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for pairs in (
            _adapter_pairs(path, Path(folder), pieces),
            _mask_pairs(path, pieces),
            _guess_pairs(path, pieces),
        ):
            for name, plain, other in pairs:
                taken: tuple[list[float], list[float]] = ([], [])
                for repeat in range(-1, repeats):
                    progress(f"{name}, call {repeat + 1} of {repeats}")
                    for call, values in zip((plain, other), taken, strict=True):
                        speed = call()
                        if repeat >= 0:
                            values.append(speed)
                speeds[name] = (median(taken[0]), median(taken[1]))
                shares[name] = speeds[name][1] / speeds[name][0]
    return OptionsReport(shares, speeds, [load_warning] if load_warning else [])


def _pieces(text: str) -> Iterator[str]:
    """Beginnings of different places of a text, for ever."""
    size = len(text) - 4000
    return (text[place : place + 4000] for place in (number * 7919 % size for number in count()))


def _timed(llm: LLM, work: Callable[[], Any]) -> float:
    before, start = llm.stats().generated_tokens, time.perf_counter()
    work()
    return (llm.stats().generated_tokens - before) / (time.perf_counter() - start)


def _adapter_pairs(
    path: Path, folder: Path, pieces: Iterator[str]
) -> Iterator[tuple[str, Call, Call]]:
    settings = SamplingParams(temperature=0, max_tokens=_NEW_TOKENS, ignore_eos=True)
    for rank in (8, 16):
        llm = LLM(path, speculation="none")
        names = [f"rank-{rank}-{number}" for number in range(_ADAPTERS)]
        for seed, name in enumerate(names):
            llm.load_adapter(name, _write_adapter(path, folder / name, rank, seed))
        for streams in (8, 32):

            def call(adapters: Sequence[str], llm: LLM = llm) -> float:
                prompts = [next(pieces)[:40] for _ in adapters]
                return _timed(llm, lambda: llm.generate(prompts, settings, adapter=adapters))

            mixed = [names[number % _ADAPTERS] for number in range(streams)]
            yield (
                f"{_ADAPTERS} adapters of rank {rank} mixed, {streams} streams",
                lambda call=call, streams=streams: call([""] * streams),
                lambda call=call, mixed=mixed: call(mixed),
            )
        llm.close()


def _write_adapter(path: Path, folder: Path, rank: int, seed: int) -> Path:
    """An adapter of random values on every matrix of every layer, as PEFT writes them."""
    from safetensors.numpy import save_file

    checkpoint = open_checkpoint(path)
    random = np.random.default_rng(seed)
    stored: dict[str, np.ndarray] = {}
    for weight in weights_of(checkpoint.spec):
        if weight.part != "weight" or weight.role not in _MODULES:
            continue
        module = f"base_model.model.model.layers.{weight.layer}.{_MODULES[weight.role]}"
        outputs, inputs = weight.shape
        for name, shape, size in (
            ("lora_A", (rank, inputs), inputs**-0.5),
            ("lora_B", (outputs, rank), 0.02),
        ):
            values = random.normal(0, size, shape).astype(np.float32)
            stored[f"{module}.{name}.weight"] = values
    folder.mkdir()
    save_file(stored, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def _mask_pairs(path: Path, pieces: Iterator[str]) -> Iterator[tuple[str, Call, Call]]:
    llm = LLM(path, speculation="none")
    seeds = count()

    def call(guide: Guide | None) -> float:
        prompts = [next(pieces)[:80] for _ in range(8)]
        settings = SamplingParams(
            temperature=0.8,
            seed=next(seeds),
            max_tokens=_GUIDED_TOKENS,
            ignore_eos=True,
            guide=guide,
        )
        return _timed(llm, lambda: llm.generate(prompts, settings))

    for name, guide in _GUIDES.items():
        yield f"{name}, 8 streams", lambda: call(None), lambda guide=guide: call(guide)
    llm.close()


def _guess_pairs(path: Path, pieces: Iterator[str]) -> Iterator[tuple[str, Call, Call]]:
    plain, guessing = LLM(path, speculation="none"), LLM(path, speculation="prompt_lookup")
    settings = SamplingParams(temperature=0, max_tokens=2 * _NEW_TOKENS, ignore_eos=True)

    def english(streams: int) -> list[str]:
        return [next(pieces)[:80] for _ in range(streams)]

    def copied(_: int) -> list[str]:
        text = next(pieces)
        return [f"Text:\n{text[:900]}\n\nThe same text again:\n{text[:60]}"]

    for name, prompts, streams in (
        ("guesses by prompt lookup, English", english, 1),
        ("guesses, a copied paragraph", copied, 1),
        ("guesses, 8 streams of English", english, 8),
    ):
        given: list[list[str]] = []

        def without(
            prompts: Callable[[int], list[str]] = prompts,
            streams: int = streams,
            given: list[list[str]] = given,
        ) -> float:
            given.append(prompts(streams))
            plain.generate(given[-1], SamplingParams(max_tokens=1))
            return _timed(plain, lambda: plain.generate(given[-1], settings))

        def with_guesses(given: list[list[str]] = given) -> float:
            guessing.generate(given[-1], SamplingParams(max_tokens=1))
            return _timed(guessing, lambda: guessing.generate(given[-1], settings))

        yield name, without, with_guesses
    plain.close()
    guessing.close()
