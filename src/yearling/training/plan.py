"""What a run will take before it starts: memory, disk and time; and what to change if too much.

The model is built on torch's `meta` device, which takes no memory, with the adapter that the run
will have: weights and optimizer states are counted as they will be, and what a forward pass keeps
is found by running one (`activations.py`). Published sizes are planned by their names as well.

Legend: T tokens of a micro-batch, V vocabulary.
"""

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yearling.core.errors import ModelNotFoundError, TrainingError, YearlingError
from yearling.core.memory import available_bytes
from yearling.models import presets, store
from yearling.models.checkpoint import open_checkpoint
from yearling.models.families import families
from yearling.models.plan import count_parameters
from yearling.models.spec import Attention, ModelSpec
from yearling.models.torch_decoder import TorchDecoder
from yearling.training.activations import Activations, measure_activations
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.config import TrainConfig
from yearling.training.context import extend_context
from yearling.training.lanes import NUM_LANES, has_lanes, tokens_at_once
from yearling.training.method import methods
from yearling.training.optimizers import OptimizerKind, optimizers

__all__ = [
    "DataPlan",
    "MemoryPart",
    "RunPlan",
    "check_fits",
    "find_spec",
    "plan_memory",
    "plan_run",
    "refuse_message",
    "refuse_too_large",
]

_LOGIT_ROWS = 1_024  # at most; labelled_losses holds 8 MB in all under a frozen head
_LOGIT_COPIES = 3  # logits, their softmax, their gradient
_NUMBER_BYTES = 4
_SMALLEST_MICRO_BATCH = 64
_MEASURED_SECONDS = 0.2
_COUNTED_STEPS = 500
_LEAN_OPTIMIZERS = ("adamw_8bit", "adamw_4bit", "adafactor")

Change = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class MemoryPart:
    """One thing that memory is for, in bytes; `note` says how it was counted."""

    name: str
    num_bytes: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class DataPlan:
    """The rows of a run.

    Attributes:
        rows: Of one epoch that are trained on; None when they were not read.
        tokens: Of one epoch.
        labels: Tokens with loss among them.
        longest: Most tokens that are computed at once.
        steps: Optimizer steps of the run; None when not known.
        note: Why something is not known.
    """

    rows: int | None
    tokens: int | None
    labels: int | None
    longest: int | None
    steps: int | None
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run will take.

    Attributes:
        parameters: All of the model's, the adapter's included.
        trained: Those that change.
        memory: Parts of the peak of the training process.
        available: Free memory in bytes.
        checkpoint_bytes: One checkpoint.
        disk_bytes: All checkpoints that stay, one being written, and the result.
        free_disk_bytes: Where the output goes.
        data: The rows.
        flops_per_token: Of forward and backward pass.
        flops_per_second: Measured with matrix products of the model's shape.
    """

    parameters: int
    trained: int
    memory: tuple[MemoryPart, ...]
    available: int
    checkpoint_bytes: int
    disk_bytes: int
    free_disk_bytes: int
    data: DataPlan
    flops_per_token: float
    flops_per_second: float

    @property
    def needed(self) -> int:
        """Peak of memory in bytes."""
        return sum(part.num_bytes for part in self.memory)

    @property
    def seconds(self) -> float | None:
        """Time of the whole run in seconds, at the measured rate; None when its end is unknown."""
        if self.data.steps is None or self.data.tokens is None:
            return None
        return self.data.tokens * self.flops_per_token / self.flops_per_second


def plan_run(config: TrainConfig) -> RunPlan:
    """Say what a run will take.

    Raises:
        ModelNotFoundError: the model is neither in the store, nor on disk, nor a published size.
        ConfigError: the adapter does not fit the model.
    """
    spec = find_spec(config)
    data = _plan_data(config)
    decoder = _build(config, spec)
    memory = plan_memory(config, spec, longest=data.longest)
    trained = [value for value in decoder.parameters() if value.requires_grad]
    checkpoint = _checkpoint_bytes(config, trained)
    kept = 2 if config.checkpoint.keep is None else config.checkpoint.keep + 2
    result = sum(_size(value) for value in (trained if config.adapter else decoder.parameters()))
    output = next(folder for folder in (config.output, *config.output.parents) if folder.exists())
    return RunPlan(
        parameters=sum(value.numel() for value in decoder.parameters()),
        trained=sum(value.numel() for value in trained),
        memory=memory,
        available=available_bytes(),
        checkpoint_bytes=checkpoint,
        disk_bytes=checkpoint * kept + result,
        free_disk_bytes=shutil.disk_usage(output).free,
        data=data,
        flops_per_token=_flops_per_token(config, spec, decoder),
        flops_per_second=_matmul_rate(spec, config.micro_batch_tokens),
    )


def find_spec(config: TrainConfig) -> ModelSpec:
    """Find the model in the store, on the disk, or among the published sizes; stretch its context.

    Raises:
        ModelNotFoundError: it is nowhere.
    """
    try:
        with closing(open_checkpoint(store.resolve(config.model))) as checkpoint:
            spec = checkpoint.spec
    except ModelNotFoundError as error:
        try:
            spec = presets.find_preset(config.model).spec
        except ModelNotFoundError as other:
            raise ModelNotFoundError(f"{error} {other}") from None
    return spec if config.context is None else extend_context(spec, config.context)


def plan_memory(
    config: TrainConfig, spec: ModelSpec, *, longest: int | None = None
) -> tuple[MemoryPart, ...]:
    """Count what a run's process will hold at its peak, part by part.

    Args:
        config: Of the run.
        spec: Its model.
        longest: Most tokens that are computed at once, where the rows are known.

    Raises:
        ConfigError: the adapter does not fit the model.
    """
    decoder = _build(config, spec)
    tokens = config.micro_batch_tokens if longest is None else longest
    row = min(tokens, config.data.max_length or spec.context)
    found = measure_activations(decoder, tokens, sequence_tokens=row)
    trained = [value for value in decoder.parameters() if value.requires_grad]
    frozen = [value for value in decoder.parameters() if not value.requires_grad]
    copies = 1 + NUM_LANES if has_lanes(config, world=1) else 1
    parts = [
        MemoryPart("process", _process_bytes(), "Python, torch and its libraries"),
        MemoryPart("weights", sum(map(_size, [*trained, *frozen, *decoder.buffers()]))),
        MemoryPart("gradients", copies * sum(map(_size, trained)), "of what is trained"),
        MemoryPart("optimizer", _optimizer_bytes(config, trained), config.optimizer.name),
        *_copies(config, decoder, trained),
        MemoryPart("activations", _held(config, found), _activation_note(config, tokens)),
        MemoryPart("logits", _logit_bytes(spec, tokens), f"{_LOGIT_ROWS:,} rows at once at most"),
    ]
    return (*parts, *_loading(spec, parts))


def check_fits(config: TrainConfig, plan: RunPlan) -> None:
    """Refuse a run that this machine cannot hold.

    Raises:
        TrainingError: memory or disk is too small; the message says what would fit.
    """
    if plan.needed > plan.available:
        raise TrainingError(refuse_message(config, plan))
    if plan.disk_bytes > plan.free_disk_bytes:
        raise TrainingError(
            f"checkpoints and result need {_giga(plan.disk_bytes)} on disk, and "
            f"{_giga(plan.free_disk_bytes)} are free at output={config.output}.\n"
            f"  A checkpoint is {_giga(plan.checkpoint_bytes)}, and checkpoint.keep="
            f"{config.checkpoint.keep} of them stay: keep fewer, or choose another output."
        )


def refuse_too_large(config: TrainConfig) -> None:
    """Refuse a run that this machine's memory cannot hold, in less than a second.

    Of a run with an adapter only the loaded base is counted, since attaching one to a large model
    takes seconds (12 for 7B in four bits); `plan_run` counts all of it.

    Raises:
        TrainingError: memory is too small; the message says what would fit.
    """
    spec = find_spec(config)
    free = available_bytes()
    if config.adapter is None:
        needed = sum(p.num_bytes for p in plan_memory(config, spec) if p.name != "process")
    else:
        needed = count_parameters(spec).total * _NUMBER_BYTES
    if needed > free:
        said = _refusal(config, spec, plan_memory(config, spec), free + _process_bytes())
        raise TrainingError(f"{said}\n  use_memory_check=false tries it all the same.")


def refuse_message(config: TrainConfig, plan: RunPlan) -> str:
    """Say by how much a run is too large, what takes most, and which setting would make it fit."""
    return _refusal(config, find_spec(config), plan.memory, plan.available)


def _refusal(
    config: TrainConfig, spec: ModelSpec, memory: Sequence[MemoryPart], available: int
) -> str:
    total = sum(part.num_bytes for part in memory)
    largest = max(memory, key=lambda part: part.num_bytes)
    head = (
        f"this run needs {_giga(total)} of memory, and {_giga(available)} are free; "
        f"{largest.name} take {_giga(largest.num_bytes)}."
    )
    fitting = []
    for choices in _single_changes(config):
        for text, changes in choices:
            needed = _needed(config, spec, changes)
            if needed <= available:
                fitting.append(f"{text} ({_giga(needed)})")
                break
    if fitting:
        return f"{head}\n  Any one of these fits: {'; '.join(fitting)}."
    together: dict[str, Any] = {}
    texts = []
    smallest = total
    for text, changes in _all_changes(config):
        together |= changes
        texts.append(text)
        smallest = _needed(config, spec, together)
        if smallest <= available:
            return f"{head}\n  Together these fit: {' and '.join(texts)} ({_giga(smallest)})."
    return (
        f"{head}\n  Even with {', '.join(texts)} it needs {_giga(smallest)}: take a smaller model "
        "or a larger machine."
    )


def _build(config: TrainConfig, spec: ModelSpec) -> TorchDecoder:
    """The model as it will be trained, without memory."""
    if config.adapter is None:
        return _decoder_of(spec, None, "")
    return _decoder_of(spec, config.adapter.name, config.adapter.options.model_dump_json())


@lru_cache(maxsize=4)
def _decoder_of(spec: ModelSpec, adapter: str | None, options: str) -> TorchDecoder:
    decoder = TorchDecoder(spec, families.get(spec.family))
    if adapter is not None:
        kind: AdapterKind[Any] = adapters.get(adapter)
        kind.attach(decoder, kind.config.model_validate_json(options), 0)
    return decoder


def _loading(spec: ModelSpec, parts: Sequence[MemoryPart]) -> Iterator[MemoryPart]:
    """What loading takes beyond training: the base comes in float32 before it is quantised."""
    loaded = count_parameters(spec).total * _NUMBER_BYTES
    training = sum(part.num_bytes for part in parts if part.name != "process")
    if loaded > training:
        yield MemoryPart("loading", loaded - training, "the base in float32, before four bits")


def _size(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()


def _process_bytes() -> int:
    """What this process holds now: the same libraries, and no model."""
    with Path("/proc/self/statm").open() as file:
        pages = int(file.read().split()[1])
    return pages * 4_096


def _optimizer_bytes(config: TrainConfig, trained: Sequence[nn.Parameter]) -> int:
    kind: OptimizerKind[Any] = optimizers.get(config.optimizer.name)
    return round(sum(kind.state_bytes(value, config.optimizer.options) for value in trained))


def _copies(
    config: TrainConfig, decoder: TorchDecoder, trained: Sequence[nn.Parameter]
) -> Iterator[MemoryPart]:
    if config.ema is not None:
        yield MemoryPart("average", sum(map(_size, trained)), f"ema={config.ema}")
    if config.adapter is None and "preference" in methods.get(config.method.name).kinds:
        weights = sum(map(_size, decoder.parameters()))
        yield MemoryPart("reference", weights, "a frozen copy; with an adapter there is none")


def _held(config: TrainConfig, found: Activations) -> int:
    held = found.held(uses_checkpointing=config.use_checkpointing)
    # Matrix products keep inputs of half the size; norms and attention's sums stay as they are.
    return held if config.precision == "float32" else round(held * 0.75)


def _activation_note(config: TrainConfig, tokens: int) -> str:
    how = "computed twice" if config.use_checkpointing else "kept"
    return f"{tokens:,} tokens, layers {how}"


def _logit_bytes(spec: ModelSpec, tokens: int) -> int:
    return min(tokens, _LOGIT_ROWS) * spec.vocabulary * _NUMBER_BYTES * _LOGIT_COPIES


def _checkpoint_bytes(config: TrainConfig, trained: Sequence[nn.Parameter]) -> int:
    weights = sum(map(_size, trained))
    average = weights if config.ema is not None else 0
    return weights + average + _optimizer_bytes(config, trained)


def _changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    return TrainConfig.model_validate({**config.model_dump(mode="json"), **changes})


def _needed(config: TrainConfig, spec: ModelSpec, changes: Mapping[str, Any]) -> int:
    """Peak with other settings; rows longer than a micro-batch are taken to be its length."""
    parts = plan_memory(_changed(config, changes), spec)
    return sum(part.num_bytes for part in parts)


def _single_changes(config: TrainConfig) -> Iterator[list[Change]]:
    """Settings that may help alone; of each list the first that fits is named."""
    tokens = config.micro_batch_tokens
    yield [(f"micro_batch_tokens: {n}", {"micro_batch_tokens": n}) for n in _smaller(tokens)]
    if not config.use_checkpointing:
        yield [("use_checkpointing: true", {"use_checkpointing": True})]
    if config.adapter is None:
        others = [name for name in _LEAN_OPTIMIZERS if name != config.optimizer.name]
        yield [(f"optimizer: {name}", {"optimizer": name}) for name in others]
    names = {None: ("lora", "qlora"), "qlora": ()}
    wanted = names.get(config.adapter.name if config.adapter else None, ("qlora",))
    yield [(f"adapter: {name}", {"adapter": name}) for name in wanted]


def _all_changes(config: TrainConfig) -> Iterator[Change]:
    """Settings one after another, what costs least first."""
    if not config.use_checkpointing:
        yield "use_checkpointing: true", {"use_checkpointing": True}
    if config.micro_batch_tokens > 256:
        yield "micro_batch_tokens: 256", {"micro_batch_tokens": 256}
    if config.adapter is None:
        yield "adapter: lora", {"adapter": "lora"}
    if config.adapter is None or config.adapter.name != "qlora":
        yield "adapter: qlora", {"adapter": "qlora"}


def _smaller(tokens: int) -> Iterator[int]:
    while (tokens := tokens // 2) >= _SMALLEST_MICRO_BATCH:
        yield tokens


def _plan_data(config: TrainConfig) -> DataPlan:
    """Read and encode the rows, where model and rows are here."""
    if config.data.is_streaming:
        tokens = None if config.steps is None else config.steps * config.batch_tokens
        return DataPlan(None, tokens, None, None, config.steps, "rows are streamed")
    try:
        return _count(config)
    except (YearlingError, OSError) as error:
        tokens = None if config.steps is None else config.steps * config.batch_tokens
        note = str(error).split("\n")[0]
        return DataPlan(None, tokens, None, None, config.steps, f"rows were not counted: {note}")


def _count(config: TrainConfig) -> DataPlan:
    from yearling.data.render import Renderer
    from yearling.training.dataset import prepare_data
    from yearling.training.ranks import ALONE

    renderer = Renderer.open(config.model, chat_template=config.chat_template)
    data = prepare_data(config, renderer, ALONE)
    rows = tokens = labels = longest = 0
    counted = min(data.num_steps, _COUNTED_STEPS)
    for _ in range(counted):
        step = data.source.next_step()
        longest = max(longest, tokens_at_once(step))
        for batch in step:
            rows += len(batch.row_ids)
            tokens += len(batch.tokens)
            labels += batch.num_labels
    scale = data.num_steps / max(1, counted)
    return DataPlan(
        data.report()["training"].get("kept", rows),
        round(tokens * scale),
        round(labels * scale),
        longest or None,
        data.num_steps,
        "" if scale == 1 else f"tokens of the first {counted} steps, scaled up",
    )


def _flops_per_token(config: TrainConfig, spec: ModelSpec, decoder: TorchDecoder) -> float:
    """Two per weight and pass; backward is one pass to inputs, and one to weights that learn."""
    matrices = [value for value in decoder.parameters() if value.dim() == 2]
    weights = sum(value.numel() for value in matrices)
    share = 1.0 if config.adapter is None else 0.0
    passes = 2 + share + (1 if config.use_checkpointing else 0)
    length = min(config.micro_batch_tokens, config.data.max_length or spec.context)
    attention = sum(
        2 * length * layer.mixer.heads * layer.mixer.head_dim
        for layer in spec.layers
        if isinstance(layer.mixer, Attention)
    )
    reference = 1 if "preference" in methods.get(config.method.name).kinds else 0
    return (passes + reference) * (2 * weights + attention)


def _matmul_rate(spec: ModelSpec, tokens: int) -> float:
    """Measure products of the model's width; what a step adds to them is not in it."""
    rows, width = min(tokens, 512), min(spec.width, 2_048)
    left, right = torch.randn(rows, width), torch.randn(width, width)
    torch.mm(left, right)
    count, start = 0, time.perf_counter()
    while (spent := time.perf_counter() - start) < _MEASURED_SECONDS:
        torch.mm(left, right)
        count += 1
    return count * 2 * rows * width * width / spent


def _giga(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
