"""`yearling bench training`: from settings to a report.

Every trainer runs alone in a fresh process, so that one's memory is not another's: 16 rows of
SmolLM2 take TRL up to 16 GB. The peer's settings are swept first, ours between them; then the
fastest of them and ours run in turn, and these runs decide. Losses of many steps over the same
batches come last.
"""

import json
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers import PEER_FILES, make_peer_files, peer_python
from benchmarks.serving.engine_process import BenchmarkError, EngineCommand, EngineProcess
from benchmarks.serving.machine import BusyWatch, busy_load
from benchmarks.serving.prepare import float32_folder
from benchmarks.training.report import OURS, Report, Sample
from benchmarks.training.rows import conversations

__all__ = ["Form", "Settings", "run"]

Progress = Callable[[str], None]

_ENGINES = "benchmarks.training.engines"


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        model: Store name of a GGUF model.
        peers: `trl`, or nobody.
        batches: Batch sizes of the peer's sweep, each padded and packed.
        steps: Optimizer steps timed, behind one that warms up.
        repeats: Runs of ours and of the peer's fastest setting, in turn.
        loss_steps: Steps over which losses are compared; 0 leaves them out.
        rows_per_step: Rows of an optimizer step.
        pack_tokens: Tokens of a packed sequence of the peer, and its longest row.
        micro_batch_tokens: Tokens ours computes at once.
        lr: Learning rate, constant.
    """

    model: str = "smollm2"
    peers: tuple[str, ...] = ("trl",)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    steps: int = 2
    repeats: int = 3
    loss_steps: int = 50
    rows_per_step: int = 8
    pack_tokens: int = 640
    micro_batch_tokens: int = 768
    lr: float = 2e-4


@dataclass(frozen=True, slots=True)
class Form:
    """A trainer in one setting."""

    name: str
    command: EngineCommand


def run(settings: Settings, progress: Progress) -> Report:
    """Sweep the peer, then measure its best against ours.

    Raises:
        BenchmarkError: the peers' environment does not exist, or a trainer fails.
    """
    if unknown := set(settings.peers) - {"trl"}:
        raise BenchmarkError(f"no trainer named {', '.join(sorted(unknown))}; there is trl.")
    warnings = [warning] if (warning := busy_load()) else []
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = _forms(settings, Path(folder))
        measure = _Measurement(settings, BusyWatch(), progress)
        for form in theirs or [ours]:
            measure.speed(form)
            if form is not ours:
                measure.speed(ours)
        best = max(theirs, key=measure.rate, default=None)
        for _ in range(settings.repeats):
            for form in [ours] if best is None else [ours, best]:
                measure.speed(form)
        losses = {}
        padded = [form for form in theirs if form.name.endswith("padded")]
        if settings.loss_steps and padded:
            for form in [ours, max(padded, key=measure.rate)]:
                losses[form.name] = measure.losses(form)
    return Report(
        samples=measure.samples,
        losses=losses,
        descriptions=measure.descriptions,
        warnings=[*warnings, *measure.watch.warnings()],
    )


class _Measurement:
    """What has been measured so far."""

    def __init__(self, settings: Settings, watch: BusyWatch, progress: Progress) -> None:
        self.settings = settings
        self.watch = watch
        self.samples: dict[str, list[Sample]] = defaultdict(list)
        self.descriptions: dict[str, str] = {}
        self._progress = progress

    def rate(self, form: Form) -> float:
        """Median tokens a second of a form."""
        return statistics.median(sample.tokens_per_second for sample in self.samples[form.name])

    def speed(self, form: Form) -> None:
        """Time some steps in a fresh process."""
        answer = self._train(form, self.settings.steps + 1, "speed")
        rate = answer["tokens"] / answer["seconds"]
        self.samples[form.name].append(Sample(rate, answer["peak_rss_mb"]))
        self._progress(f"{form.name}: {rate:.1f} tokens/s, {answer['peak_rss_mb']:.0f} MB")

    def losses(self, form: Form) -> list[float]:
        """Train many steps and give the loss of each."""
        losses: list[float] = self._train(form, self.settings.loss_steps, "loss")["losses"]
        return losses

    def _train(self, form: Form, steps: int, what: str) -> dict[str, Any]:
        self._progress(f"{what}: {form.name}, {steps} steps")
        with EngineProcess(form.command, answer_seconds=3_600) as engine:
            self.descriptions[form.name] = engine.description
            with self.watch.during(f"{what} of {form.name}", engine.pid):
                return engine.ask({"command": "train", "steps": steps})


def _forms(settings: Settings, folder: Path) -> tuple[Form, list[Form]]:
    """Ours, and the peer in each setting; both read the same rows in the same order."""
    from yearling.models.store import ensure, resolve

    ensure(settings.model)
    model = resolve(settings.model)
    rows = folder / "rows.jsonl"
    count = max(settings.loss_steps, settings.steps + 1) * settings.rows_per_step + 32
    lines = [json.dumps(row, ensure_ascii=False) for row in conversations(count)]
    rows.write_text("\n".join(lines) + "\n", encoding="utf-8")
    own_options = {
        "rows": str(rows),
        "folder": str(folder),
        "rows_per_step": settings.rows_per_step,
        "micro_batch_tokens": settings.micro_batch_tokens,
        "lr": settings.lr,
    }
    ours = Form(
        OURS,
        EngineCommand(OURS, Path(sys.executable), f"{_ENGINES}.yearling", model, own_options),
    )
    if not settings.peers:
        return ours, []
    return ours, _peer_forms(settings, folder, ours, model)


def _peer_forms(settings: Settings, folder: Path, ours: Form, model: Path) -> list[Form]:
    make_peer_files(model)
    python, weights = peer_python(), float32_folder(model, PEER_FILES)
    with EngineProcess(ours.command) as engine:
        encoded = engine.ask({"command": "encode", "file": str(folder / "rows.json")})
    common = {
        "rows": str(folder / "rows.json"),
        "folder": str(folder / "trl"),
        "tokenizer": str(model),
        "rows_per_step": settings.rows_per_step,
        "rows_per_pack": max(1, round(settings.pack_tokens / encoded["mean_tokens"])),
        "pack_tokens": settings.pack_tokens,
        "lr": settings.lr,
    }
    forms = []
    for batch in settings.batches:
        for is_packed in (False, True):
            name = f"trl/{batch}-{'packed' if is_packed else 'padded'}"
            options = {**common, "batch": batch, "is_packed": is_packed}
            command = EngineCommand(name, python, f"{_ENGINES}.trl", weights, options)
            forms.append(Form(name, command))
    return forms
