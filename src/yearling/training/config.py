"""The configuration of a training run, as `yearling train CONFIG.yaml` reads it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import Field, field_serializer, model_validator

from yearling.core.config import Config
from yearling.core.section import Choice, NamedEntry, Shorthand
from yearling.data.config import DataConfig
from yearling.training.adapters import adapters
from yearling.training.context import ContextConfig
from yearling.training.method import methods
from yearling.training.optimizers import optimizers
from yearling.training.parallel import ParallelConfig
from yearling.training.precision import Precision
from yearling.training.schedules import ScheduleConfig

__all__ = ["ADAPTER_LR", "FULL_LR", "CheckpointConfig", "TrainConfig", "ValidationConfig"]

FULL_LR, ADAPTER_LR = 2e-5, 2e-4
"""Learning rates where none is given: all weights move, or an adapter from zero."""


class CheckpointConfig(Config):
    """When a run is saved, so that it can be taken up again."""

    every: int | None = Field(
        default=None, ge=1, description="Optimizer steps between; None saves at the end alone."
    )
    keep: int | None = Field(
        default=2, ge=1, description="Newest ones that stay, the best besides; None keeps all."
    )


class ValidationConfig(Config):
    """When the rows kept back are looked at; `data` says which these are."""

    every: int | None = Field(
        default=None, ge=1, description="Optimizer steps between; None validates at the end alone."
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="Validations without a better loss after which the run stops; None never.",
    )


class TrainConfig(Config):
    """What is trained, on what, how, and where it goes."""

    familiar_names: ClassVar[Mapping[str, str]] = {
        "base_model": "model",
        "bf16": "precision: bfloat16",
        "dataset": "data",
        "dataset_path": "data",
        "early_stopping_patience": "validation.patience",
        "eval_steps": "validation.every",
        "fp16": "precision: bfloat16",
        "gradient_accumulation_steps": "batch_tokens and micro_batch_tokens",
        "gradient_checkpointing": "use_checkpointing",
        "learning_rate": "optimizer.lr",
        "logging_steps": "report_to (metrics.jsonl has every step)",
        "lora_alpha": "adapter.alpha",
        "lora_r": "adapter.r",
        "lora_rank": "adapter.r",
        "lr": "optimizer.lr",
        "lr_scheduler_type": "schedule.name",
        "max_grad_norm": "clip",
        "max_length": "data.max_length",
        "max_seq_len": "data.max_length",
        "max_seq_length": "data.max_length",
        "max_steps": "steps",
        "model_name": "model",
        "model_name_or_path": "model",
        "num_epochs": "epochs",
        "num_train_epochs": "epochs",
        "output_dir": "output",
        "peft": "adapter",
        "per_device_train_batch_size": "batch_tokens, or batch_rows",
        "rank": "adapter.r",
        "save_steps": "checkpoint.every",
        "save_total_limit": "checkpoint.keep",
        "test_size": "data.validation_fraction",
        "train_file": "data.paths",
        "val_set_size": "data.validation_fraction",
        "validation_file": "data.validation_paths",
        "warmup_ratio": "schedule.warmup",
        "warmup_steps": "schedule.warmup",
        "weight_decay": "optimizer.weight_decay",
    }

    model: str = Field(
        min_length=1,
        description="Name in the store, GGUF file, or Hugging Face folder to start from.",
    )
    output: Path = Field(description="Folder of the run: the trained model and its records.")
    data: Annotated[DataConfig, Shorthand("paths")] = Field(
        description="Rows to learn from: a path, or a section."
    )
    method: Annotated[NamedEntry, Choice(methods, default="sft")] = Field(
        default=cast(NamedEntry, "sft"),  # validated like a value that is given
        description="Training method: a name, or `name` with its options.",
    )
    adapter: Annotated[NamedEntry | None, Choice(adapters, default="lora")] = Field(
        default=None,
        description="Adapter to train in place of all weights: null, a name, or a section.",
    )
    optimizer: Annotated[NamedEntry, Choice(optimizers, default="adamw")] = Field(
        default=cast(NamedEntry, "adamw"),
        description="Optimizer: a name, or `name` with its options. Without `lr`, 2e-4 for an "
        "adapter and 2e-5 for all weights.",
    )
    schedule: Annotated[ScheduleConfig, Shorthand("name")] = Field(
        default=ScheduleConfig(), description="Of the learning rate: a name, or a section."
    )
    epochs: int = Field(default=1, ge=1, description="Passes over the rows.")
    steps: int | None = Field(
        default=None, ge=1, description="Optimizer steps; goes before `epochs`."
    )
    max_seconds: float | None = Field(
        default=None, gt=0, description="Training time in seconds after which the run ends."
    )
    batch_tokens: int = Field(
        default=8_192, ge=1, description="Tokens of rows that one optimizer step learns from."
    )
    batch_rows: int | None = Field(
        default=None, ge=1, description="Rows of a step, in place of `batch_tokens`."
    )
    micro_batch_tokens: int = Field(
        default=2_048,
        ge=1,
        description="Tokens computed at once, without padding; less takes less memory and changes "
        "no result. A longer row is computed alone.",
    )
    precision: Precision = Field(
        default="float32",
        description="Of matrix products; weights and optimizer states are float32 either way.",
    )
    use_checkpointing: bool = Field(
        default=False,
        description="Compute layers again in the backward pass: less memory, a third more time.",
    )
    use_memory_check: bool = Field(
        default=True,
        description="Refuse to start where `yearling plan` says that memory cannot suffice, on a "
        "processor and in a single process.",
    )
    clip: float | None = Field(
        default=1.0, gt=0, description="Longest gradient; longer ones are shortened to it."
    )
    ema: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Decay of an averaged copy of what is trained, which is validated and saved "
        "in its place; 0.999 is usual.",
    )
    validation: ValidationConfig = Field(
        default=ValidationConfig(), description="When rows kept back are looked at."
    )
    checkpoint: Annotated[CheckpointConfig, Shorthand("every")] = Field(
        default=CheckpointConfig(), description="When the run is saved: steps, or a section."
    )
    context: Annotated[ContextConfig | None, Shorthand("tokens")] = Field(
        default=None,
        description="A longer context than the model was made for: tokens, or a section.",
    )
    parallel: ParallelConfig = Field(
        default=ParallelConfig(), description="How processes that torchrun started share the work."
    )
    report_to: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        default=(), description="Where metrics go besides metrics.jsonl."
    )
    chat_template: str | None = Field(
        default=None,
        description="Name of a chat template or path of a .jinja file, in place of the model's.",
    )
    device: str = Field(default="auto", description="`auto`, `cpu`, `cuda` or `cuda:1`.")
    threads: int | None = Field(
        default=None, ge=1, description="Threads of the processor; None leaves it to PyTorch."
    )
    seed: int = Field(default=0, ge=0, description="Of everything random.")

    @model_validator(mode="before")
    @classmethod
    def _choose_optimizer(cls, values: Any) -> Any:
        """Say the learning rate where nobody has: what suits an adapter ruins a whole model."""
        if not isinstance(values, Mapping) or isinstance(values.get("optimizer"), NamedEntry):
            return values
        section = values.get("optimizer") or {}
        section = {"name": section} if isinstance(section, str) else section
        if not isinstance(section, Mapping) or "lr" in section:
            return values
        lr = FULL_LR if values.get("adapter") is None else ADAPTER_LR
        return {**values, "optimizer": {**section, "lr": lr}}

    @model_validator(mode="after")
    def _check_batch(self) -> "TrainConfig":
        if self.batch_rows is None and self.micro_batch_tokens > self.batch_tokens:
            raise ValueError(
                f"micro_batch_tokens={self.micro_batch_tokens} is more than "
                f"batch_tokens={self.batch_tokens}: a step would not fill one computation. "
                f"Set micro_batch_tokens to {self.batch_tokens} at most"
            )
        return self

    @field_serializer("output")
    def _write_output(self, output: Path) -> str:
        return str(output)
