"""`yearling bench embeddings`: from settings to a report."""

import base64
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.embeddings.sentences import mixed_texts
from benchmarks.peers import peer_python
from benchmarks.serving.engine_process import EngineCommand, EngineProcess
from benchmarks.serving.machine import BusyWatch, busy_load
from benchmarks.serving.metrics import Summary, summarise

__all__ = ["PEER_BATCHES", "EmbeddingProcess", "Report", "Settings", "measure", "run"]

Progress = Callable[[str], None]

OURS = "yearling"
PEER = "sentence-transformers"
PEER_BATCHES = (32, 16, 8, 4)
"""Batch sizes the peer is measured with: its default, and what suits short texts better."""

_ENGINES = "benchmarks.embeddings.engines"
_LEAST_COSINE = 0.9999


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        model: Store name or folder of a sentence encoder.
        texts: How many texts are embedded in one call.
        repeats: Rounds; medians need at least 5.
    """

    model: str = "minilm"
    texts: int = 200
    repeats: int = 5


class EmbeddingProcess(Protocol):
    """The part of `EngineProcess` that the rounds need."""

    name: str
    description: str

    @property
    def pid(self) -> int:
        """Number of the process."""
        ...

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Send one command and wait for its answer."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found.

    Attributes:
        rates: Texts per second of each form: ours, and the peer's by batch size.
        cosines: Of our vector and the peer's, one per text.
        descriptions: Configuration by engine.
        warnings: What makes the figures doubtful.
    """

    rates: Mapping[str, Summary]
    cosines: Sequence[float]
    descriptions: Sequence[str]
    warnings: Sequence[str] = ()

    @property
    def ratio(self) -> float:
        """Our median rate against the peer's best one."""
        best = max(rate.median for name, rate in self.rates.items() if name != OURS)
        return self.rates[OURS].median / best

    @property
    def has_passed(self) -> bool:
        """Whether every vector agrees and ours takes no longer."""
        return min(self.cosines) >= _LEAST_COSINE and self.ratio >= 1.0

    def as_json(self) -> dict[str, Any]:
        """Everything for scripts."""
        return {
            "texts_per_second": {name: asdict(rate) for name, rate in self.rates.items()},
            "ratio": self.ratio,
            "least_cosine": min(self.cosines),
            "texts": len(self.cosines),
            "configurations": list(self.descriptions),
            "warnings": list(self.warnings),
            "has_passed": self.has_passed,
        }

    def as_text(self) -> str:
        """Everything for people."""
        lines = [f"Embeddings of {len(self.cosines)} texts in one call, texts per second (median)"]
        lines += [
            f"  {name:<26} {rate.median:8.1f} ±{rate.spread / 2:.0%}"
            for name, rate in self.rates.items()
        ]
        verdict = "ok" if self.has_passed else "FAILED"
        lines += [
            f"ours / best of {PEER}: {self.ratio:.2f} (at least 1)",
            f"least cosine of ours and theirs: {min(self.cosines):.7f} (at least {_LEAST_COSINE})",
            verdict,
            *self.descriptions,
            *(f"WARNING: {warning}" for warning in self.warnings),
        ]
        return "\n".join(lines)


def run(settings: Settings, progress: Progress) -> Report:
    """Measure ours and the peer in alternating runs.

    Raises:
        BenchmarkError: the peers' environment does not exist, or an engine fails.
    """
    from yearling.models.store import ensure, resolve

    python = peer_python()
    ensure(settings.model)
    model = resolve(settings.model)
    commands = (
        EngineCommand(OURS, Path(sys.executable), f"{_ENGINES}.yearling", model),
        EngineCommand(PEER, python, f"{_ENGINES}.sentence_transformers", model),
    )
    load_warning = busy_load()
    with ExitStack() as stack:
        engines = []
        for command in commands:
            progress(f"load: {command.name}")
            engines.append(stack.enter_context(EngineProcess(command)))
        report = measure(
            engines[0], engines[1], mixed_texts(settings.texts), settings.repeats, progress
        )
    if load_warning is None:
        return report
    return Report(
        report.rates, report.cosines, report.descriptions, [load_warning, *report.warnings]
    )


def measure(
    ours: EmbeddingProcess,
    peer: EmbeddingProcess,
    texts: Sequence[str],
    repeats: int,
    progress: Progress,
) -> Report:
    """Run the rounds; forms follow each other at once, and the first one moves on each round."""
    forms = {OURS: (ours, 0)} | {f"{PEER}/{size}": (peer, size) for size in PEER_BATCHES}
    vectors = {}
    for name, (engine, size) in forms.items():
        progress(f"warm-up: {name}")
        vectors[name] = _embed(engine, texts, size)[1]
    watch, rates = BusyWatch(), defaultdict(list)
    names = list(forms)
    for repeat in range(repeats):
        first = repeat % len(names)
        for name in [*names[first:], *names[:first]]:
            progress(f"round {repeat + 1}/{repeats}: {name}")
            engine, size = forms[name]
            with watch.during(name, engine.pid):
                seconds, _ = _embed(engine, texts, size)
            rates[name].append(len(texts) / seconds)
    return Report(
        rates={name: summarise(rates[name]) for name in names},
        cosines=_cosines(vectors[OURS], vectors[f"{PEER}/{PEER_BATCHES[0]}"]),
        descriptions=[ours.description, peer.description],
        warnings=watch.warnings(),
    )


def _embed(
    engine: EmbeddingProcess, texts: Sequence[str], batch_size: int
) -> tuple[float, NDArray[np.float32]]:
    answer = engine.ask({"command": "embed", "texts": list(texts), "batch_size": batch_size})
    vectors = np.frombuffer(base64.b64decode(answer["vectors"]), np.float32)
    return answer["seconds"], vectors.reshape(len(texts), -1)


def _cosines(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> list[float]:
    left, right = ours.astype(np.float64), theirs.astype(np.float64)
    products = (left * right).sum(axis=1)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return [float(cosine) for cosine in products / lengths]
