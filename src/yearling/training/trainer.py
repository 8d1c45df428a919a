"""A whole run: data, model, loop, checkpoints, and a folder that serves at the end.

output/
  config.yaml       the resolved configuration
  data_report.json  what became of every row
  metrics.jsonl     one line a step
  loss.png          its picture, where matplotlib is installed
  checkpoints/      from which `--resume` goes on
  model/            the trained model, or the adapter, with tokenizer and template
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from signal import Signals
from typing import Any

import torch

from yearling.core.config import save_config
from yearling.core.errors import ConfigError, UnsupportedError
from yearling.core.memory import keep_freed_memory
from yearling.data.render import Renderer
from yearling.models import store
from yearling.models.torch_decoder import TorchDecoder
from yearling.training import checkpoint, durable
from yearling.training.assembly import (
    load_trained,
    loop_config,
    make_objective,
    make_optimization,
)
from yearling.training.batch import PackedBatch
from yearling.training.config import TrainConfig
from yearling.training.curve import draw_curve
from yearling.training.dataset import RunData, prepare_data
from yearling.training.hooks import Hooks, StepReport, ValidationReport
from yearling.training.lanes import has_lanes, in_lanes
from yearling.training.loop import Loop, LoopResult
from yearling.training.loop_state import ModuleState
from yearling.training.method import methods
from yearling.training.metrics import (
    METRICS_FILE,
    MetricsFile,
    MetricsWriter,
    open_writers,
    read_metrics,
    step_figures,
    validation_figures,
)
from yearling.training.objective import Objective
from yearling.training.output import write_result
from yearling.training.parallel import Processes, process_group
from yearling.training.parallel.group import is_distributed
from yearling.training.plan import refuse_too_large
from yearling.training.precision import choose_device
from yearling.training.progress import training_bar
from yearling.training.ranks import ALONE, Ranks
from yearling.training.run_card import make_run_card, write_run_card
from yearling.training.sharded import whole as gather
from yearling.training.stopping import stop_on_signals

__all__ = ["TrainResult", "Trainer", "train"]

_CONFIG, _REPORT, _CURVE, _CHECKPOINTS = (
    "config.yaml",
    "data_report.json",
    "loss.png",
    "checkpoints",
)
_FREE_ON_RESUME = {
    *("checkpoint", "device", "max_seconds", "output", "parallel", "report_to", "threads"),
    "use_memory_check",
}
"""Keys that a resumed run may have otherwise; every other one would make it another run."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        output: Folder of the run.
        model: The trained model's folder or the adapter's; None when the run was stopped before
            its end, and in all processes but the first.
        loop: Steps, reason and losses.
        signal: What stopped it; None when it ended by itself.
        resumed_at: Step from which it went on; 0 for a run from the start.
        record: Id of the lineage record, where a model was written.
    """

    output: Path
    model: Path | None
    loop: LoopResult
    signal: Signals | None = None
    resumed_at: int = 0
    record: str | None = None


def train(config: TrainConfig, *, resume: bool = False) -> TrainResult:
    """Run a training to its end.

    On a processor, the process keeps from then on what memory it frees (`keep_freed_memory`).

    Args:
        config: What is trained, on what, how.
        resume: Whether to go on from the last checkpoint in the output folder; without one the
            run begins at its start.

    Raises:
        ConfigError: the output folder holds a run already, or one of another configuration.
        DataError: rows cannot be read, or too many are lost.
        ModelError: the model cannot be read.
        TrainingError: memory cannot suffice; the message says what would fit.
        NonFiniteError: a loss or gradient is not a finite number; the weights are unchanged.
        CheckpointError: a checkpoint cannot be written, or is damaged.
    """
    return Trainer(config).train(resume=resume)


class Trainer:
    """One run of a configuration.

    >>> from yearling.training.trainer import Trainer  # doctest: +SKIP
    >>> Trainer(load_config(TrainConfig, Path("sft.yaml"))).train()  # doctest: +SKIP

    Attributes:
        config: Of the run.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self._folder = config.output
        self._checkpoints = config.output / _CHECKPOINTS
        self._ranks: Ranks = ALONE

    def train(self, *, resume: bool = False) -> TrainResult:
        """Run it; see `train`."""
        config = self.config
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        with process_group(), stop_on_signals() as stopped_by:
            device = choose_device(config.device)
            if device.type == "cpu":
                keep_freed_memory()
            processes = Processes(config.parallel, device.type) if is_distributed() else None
            self._ranks = processes or ALONE
            self._refuse_taken(resume=resume)
            store.ensure(config.model)
            path = store.resolve(config.model)
            if config.use_memory_check and device.type == "cpu" and processes is None:
                refuse_too_large(config)
            renderer = Renderer.open(config.model, chat_template=config.chat_template)
            data = prepare_data(config, renderer, self._ranks)
            decoder = load_trained(config, path, device)
            if processes is not None:
                processes.lay_out(decoder)
            objective = make_objective(config, path, decoder)
            if self._ranks.is_first:  # only now, so that a mistake before leaves nothing behind
                self._folder.mkdir(parents=True, exist_ok=True)
                save_config(config, self._folder / _CONFIG)
            run = _Run(config, path, renderer, data, decoder, objective)
            result = self._run_loop(run, stopped_by, resume=resume)
            return self._finish(run, result, stopped_by())

    def _refuse_taken(self, *, resume: bool) -> None:
        saved = self._folder / _CONFIG
        if not saved.exists():
            return
        if not resume:
            raise ConfigError(
                f"output={self._folder} holds a run already.\n"
                "  Go on with it by --resume, choose another output, or remove the folder."
            )
        _refuse_other_run(saved, self.config)

    def _run_loop(
        self,
        run: "_Run",
        stopped_by: Callable[[], Signals | None],
        *,
        resume: bool,
    ) -> TrainResult:
        found = checkpoint.recover(self._checkpoints) if resume else None
        start = 0 if found is None else durable.step_of(found)
        self._write_report(run.data)
        with ExitStack() as stack:
            writers = stack.enter_context(self._writers(start))
            show = stack.enter_context(self._bar(run.data.num_steps, start))
            objective = run.objective
            if has_lanes(self.config, self._ranks.size) and len(objective.updates) == 1:
                objective = stack.enter_context(in_lanes(objective))
            loop = Loop(
                objective,
                run.data.source,
                make_optimization(self.config),
                loop_config(self.config, run.data.num_steps),
                self._hooks(run, writers, show, lambda: stopped_by() is not None),
            )
            if found is not None:
                loop.load_state_dict(checkpoint.load(found, loop.state_dict()))
            outcome = loop.run()
        model = None if outcome.reason == "asked" else self._write_model(run, loop, outcome)
        return TrainResult(self._folder, model, outcome, resumed_at=start)

    def _hooks(
        self,
        run: "_Run",
        writers: Sequence[MetricsWriter],
        show: Callable[[StepReport], None],
        is_stopping: Callable[[], bool],
    ) -> Hooks[PackedBatch]:
        has_perplexity = "preference" not in methods.get(self.config.method.name).kinds

        def on_step(report: StepReport) -> None:
            _write(writers, step_figures(report))
            show(report)

        def on_validation(report: ValidationReport) -> None:
            _write(writers, validation_figures(report, has_perplexity=has_perplexity))

        return Hooks(
            on_step=on_step,
            on_validation=on_validation,
            save=self._save,
            is_stopping=is_stopping,
            validation=(lambda: run.data.validation) if run.data.validation else None,
            num_tokens=lambda batch: len(batch.tokens),
            move=lambda batch, device: batch.to(device),
            epoch=run.data.epoch,
            ranks=self._ranks,
        )

    def _save(self, step: int, state: Mapping[str, Any], is_best: bool) -> None:
        keep = self.config.checkpoint.keep
        written = checkpoint.save(self._checkpoints, step, state, keep=keep)
        if is_best:
            checkpoint.point_best(self._checkpoints, written)

    @contextmanager
    def _writers(self, start: int) -> Iterator[Sequence[MetricsWriter]]:
        if not self._ranks.is_first:
            yield ()
            return
        file = MetricsFile(self._folder / METRICS_FILE, last_step=start)
        writers = [file, *open_writers(self.config.report_to, self._folder)]
        try:
            yield writers
        finally:
            for writer in writers:
                writer.close()

    @contextmanager
    def _bar(self, num_steps: int, start: int) -> Iterator[Callable[[StepReport], None]]:
        if not self._ranks.is_first:
            yield lambda report: None
            return
        with training_bar(num_steps, start) as show:
            yield show

    def _write_report(self, data: RunData) -> None:
        if self._ranks.is_first:
            text = json.dumps(data.report(), indent=1, ensure_ascii=False) + "\n"
            durable.write_file(self._folder / _REPORT, text.encode())

    def _write_model(
        self, run: "_Run", loop: Loop[PackedBatch], outcome: LoopResult
    ) -> Path | None:
        """Write the last weights, or with patience the best ones; averaged where asked for."""
        best = durable.pointed(self._checkpoints, "best")
        wants_best = self.config.validation.patience is not None
        if wants_best and best is not None and durable.step_of(best) != outcome.step:
            loop.load_state_dict(checkpoint.load(best, loop.state_dict()))
        averaged = nullcontext() if loop.average is None else loop.average.applied()
        with averaged:
            decoder = self._gathered(run) if is_distributed() else run.decoder
            if not self._ranks.is_first:
                return None
            return write_result(self.config, run.path, decoder, run.renderer)

    def _gathered(self, run: "_Run") -> TorchDecoder:
        """Put shards together in a decoder of the first process."""
        name = next(name for name, m in run.objective.modules.items() if m is run.decoder)
        state = ModuleState(run.decoder).state_dict()
        whole = {key: gather(value).cpu() for key, value in state.items()}
        if not self._ranks.is_first:
            return run.decoder
        decoder = load_trained(self.config, run.path, "cpu")
        ModuleState(decoder).load_state_dict(name, whole)
        return decoder

    def _finish(self, run: "_Run", result: TrainResult, stopped_by: Signals | None) -> TrainResult:
        if not self._ranks.is_first:
            return replace(result, signal=stopped_by)
        self._write_report(run.data)
        self._draw()
        if result.model is None:
            return replace(result, signal=stopped_by)
        loop = result.loop
        card = make_run_card(
            self.config,
            run.path,
            run.renderer.template_hash,
            report=run.data.report(),
            scores={"loss": loop.loss, "best_validation_loss": loop.best_loss, "steps": loop.step},
        )
        record = write_run_card(self._folder, result.model, card).record
        return replace(result, record=record)

    def _draw(self) -> None:
        try:
            draw_curve(
                read_metrics(self._folder / METRICS_FILE),
                self._folder / _CURVE,
                title=self._folder.name,
            )
        except UnsupportedError:
            return  # a picture nobody asked for; metrics.jsonl has the figures


@dataclass(frozen=True)
class _Run:
    """What a run is made of, once all of it is loaded."""

    config: TrainConfig
    path: Path
    renderer: Renderer
    data: RunData
    decoder: TorchDecoder
    objective: Objective[PackedBatch]


def _write(writers: Sequence[MetricsWriter], figures: Mapping[str, Any]) -> None:
    for writer in writers:
        writer.write(figures)


def _refuse_other_run(saved: Path, config: TrainConfig) -> None:
    import yaml

    before = yaml.safe_load(saved.read_text(encoding="utf-8"))
    now = config.model_dump(mode="json")
    different = [
        f"{key} was {before.get(key)!r} and is {value!r}"
        for key, value in now.items()
        if key not in _FREE_ON_RESUME and before.get(key) != value
    ]
    if different:
        raise ConfigError(
            f"{saved.parent} holds a run of another configuration: {'; '.join(different)}.\n"
            "  Resume with the configuration it began with, or choose another output."
        )
