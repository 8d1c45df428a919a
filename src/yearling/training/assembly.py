"""From a configuration to what the loop trains: model, adapter, objective and optimizer."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from yearling.models.checkpoint import open_checkpoint
from yearling.models.torch_decoder import TorchDecoder, load_torch_decoder
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.batch import PackedBatch
from yearling.training.config import TrainConfig
from yearling.training.context import configuration_with, extend_context
from yearling.training.loop import LoopConfig, Optimization
from yearling.training.method import Method, Start, methods
from yearling.training.objective import Objective, Update
from yearling.training.optimizers import OptimizerKind, ParameterGroup, optimizers

__all__ = ["load_base", "load_trained", "loop_config", "make_objective", "make_optimization"]


def load_base(config: TrainConfig, path: Path, device: torch.device | str) -> TorchDecoder:
    """Load the model to start from, in float32, with its context stretched if asked for.

    Raises:
        ModelError: it cannot be read, or could not be written with its new positions.
    """
    with closing(open_checkpoint(path)) as checkpoint:
        spec = checkpoint.spec
        if config.context is not None:
            spec = extend_context(spec, config.context)
            if config.adapter is None:
                configuration_with(checkpoint, spec)  # a model nobody could write is not trained
        return load_torch_decoder(checkpoint, device=device, spec=spec)


def load_trained(config: TrainConfig, path: Path, device: torch.device | str) -> TorchDecoder:
    """Load the model and put a new adapter in place, if there is to be one.

    Raises:
        ModelError: the model cannot be read.
        ConfigError: the adapter does not fit it.
    """
    decoder = load_base(config, path, device)
    if config.adapter is not None:
        kind: AdapterKind[Any] = adapters.get(config.adapter.name)
        kind.attach(decoder, config.adapter.options, config.seed)
    decoder.uses_checkpointing = config.use_checkpointing
    return decoder


def make_objective(
    config: TrainConfig, path: Path, decoder: TorchDecoder
) -> Objective[PackedBatch]:
    """Make the method's objective over a model that is in place."""
    method: Method[Any] = methods.get(config.method.name)
    start = Start(decoder, _reference(config, path, decoder), config.seed)
    return method.objective(config.method.options, start)


def make_optimization(config: TrainConfig) -> Optimization:
    """Give the optimizer that the configuration names; norms and biases never decay."""
    kind: OptimizerKind[Any] = optimizers.get(config.optimizer.name)

    def build(update: Update[Any]) -> torch.optim.Optimizer:
        return kind.build(_groups(update), config.optimizer.options)

    return Optimization(build, kind.uses_closure, config.schedule)


def loop_config(config: TrainConfig, num_steps: int) -> LoopConfig:
    """Give the loop its plain values."""
    return LoopConfig(
        max_steps=num_steps,
        max_seconds=config.max_seconds,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
        clip=config.clip,
        ema=config.ema,
        validate_every=config.validation.every,
        patience=config.validation.patience,
        checkpoint_every=config.checkpoint.every,
    )


def _groups(update: Update[Any]) -> list[ParameterGroup]:
    matrices = [p for p in update.parameters.values() if p.dim() > 1]
    vectors = [p for p in update.parameters.values() if p.dim() <= 1]
    groups: list[ParameterGroup] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _reference(
    config: TrainConfig, path: Path, decoder: TorchDecoder
) -> Callable[[], AbstractContextManager[TorchDecoder]]:
    if config.adapter is not None:
        kind: AdapterKind[Any] = adapters.get(config.adapter.name)

        @contextmanager
        def without_adapter() -> Iterator[TorchDecoder]:
            with kind.disabled(decoder):
                yield decoder

        return without_adapter
    copies: list[TorchDecoder] = []

    @contextmanager
    def frozen_copy() -> Iterator[TorchDecoder]:
        if not copies:
            # Read again rather than copied: a resumed run has other weights by then.
            device = next(decoder.parameters()).device
            copies.append(load_base(config, path, device).requires_grad_(False).eval())
        yield copies[0]

    return frozen_copy
