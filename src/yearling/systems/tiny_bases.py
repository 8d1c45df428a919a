"""Small decoders that several systems begin from, trained once and kept.

A base follows from its settings and from the code that trains it; both are hashed into the name
of its file below `yearling_home()`, so that nothing stale is ever read.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from yearling.core.paths import yearling_home
from yearling.systems.fingerprint import fingerprint

if TYPE_CHECKING:
    from torch import Tensor, nn

    from yearling.models.spec import ModelSpec
    from yearling.models.torch_decoder import TorchDecoder

__all__ = [
    "Rows",
    "Training",
    "decoder_of",
    "fit",
    "kept_decoder",
    "save_folder",
    "token_losses",
    "windows_of",
]


@dataclass(frozen=True)
class Rows:
    """Sequences of equal length.

    Attributes:
        tokens: Ids (n, length).
        labels: For each the id that follows it, or `NO_LABEL`, (n, length).
    """

    tokens: "Tensor"
    labels: "Tensor"


@dataclass(frozen=True)
class Training:
    """How a tiny decoder is trained.

    Attributes:
        steps: Of the optimizer, AdamW.
        lr: Learning rate.
        schedule: Its shape.
        weight_decay: Share of each weight that a step takes away, times the lr.
        seed: Of the loop's generators.
    """

    steps: int
    lr: float
    schedule: str = "cosine"
    weight_decay: float = 0.0
    seed: int = 0


def decoder_of(spec: "ModelSpec | Mapping[str, Any]", seed: int) -> "TorchDecoder":
    """Make a decoder with first values.

    Args:
        spec: What it is, or the sizes of a Llama as in its config.json.
        seed: Of the values.
    """
    from yearling.models.families import families
    from yearling.models.fields import Fields
    from yearling.models.torch_decoder import TorchDecoder, initialise

    family = families.get("llama")
    if isinstance(spec, Mapping):
        spec = family.spec_from_config(Fields(dict(spec), "the tiny decoder"))
    decoder = TorchDecoder(spec, family, device="cpu")
    initialise(decoder, seed=seed)
    return decoder


def fit(
    decoder: "TorchDecoder",
    draw: Callable[[int], Rows],
    training: Training,
    say: Callable[[str], None] = lambda _: None,
) -> float:
    """Train what has `requires_grad` with the platform's loop, and give the seconds it took.

    Args:
        draw: Gives the rows of a step, counted from 0.
        say: Is told the loss ten times.
    """
    from yearling.models.torch_decoder import NO_LABEL, labelled_losses
    from yearling.training.loop import Hooks, LoopConfig, Optimization, StepReport, run_loop
    from yearling.training.objective import Loss, Objective, Update
    from yearling.training.optimizers import optimizers
    from yearling.training.schedules import ScheduleConfig

    kind = optimizers.get("adamw")
    config = kind.config(lr=training.lr, weight_decay=training.weight_decay)
    trained = {name: weight for name, weight in decoder.named_parameters() if weight.requires_grad}

    def loss(batch: Rows) -> Loss:
        hidden = _hidden(decoder, batch.tokens)
        labels = batch.labels.reshape(-1)
        return Loss(labelled_losses(decoder, hidden, labels, rows_at_once=4_096).sum())

    def report(done: StepReport) -> None:
        if (done.step + 1) % max(1, training.steps // 10) == 0:
            say(f"step {done.step + 1} of {training.steps}: {done.updates['loss'].loss:.3f} nats")

    update = Update("loss", trained, loss, lambda b: float((b.labels != NO_LABEL).sum()))
    optimization = Optimization(
        lambda made: kind.build([{"params": list(made.parameters.values())}], config),
        schedule=ScheduleConfig.model_validate({"name": training.schedule}),
    )
    loop = LoopConfig(max_steps=training.steps, seed=training.seed)
    started = perf_counter()
    decoder.train()
    hooks: Hooks[Rows] = Hooks(on_step=report)
    run_loop(Objective({"decoder": decoder}, [update]), _Drawn(draw), optimization, loop, hooks)
    decoder.eval()
    return perf_counter() - started


class _Drawn:
    """Rows drawn anew for every step."""

    def __init__(self, draw: Callable[[int], Rows]) -> None:
        self._draw = draw
        self._step = 0

    def next_step(self) -> Sequence[Rows]:
        self._step += 1
        return [self._draw(self._step - 1)]

    def row_names(self, batch: Any) -> Sequence[str]:
        return [f"drawn rows, step {self._step}"]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._step = state["step"]


def token_losses(decoder: "TorchDecoder", rows: Rows) -> "Tensor":
    """Give the loss in nats of every labelled token, in order."""
    import torch

    from yearling.models.torch_decoder import labelled_losses

    decoder.eval()
    with torch.no_grad():
        hidden = _hidden(decoder, rows.tokens)
        return labelled_losses(decoder, hidden, rows.labels.reshape(-1), rows_at_once=4_096)


def _hidden(decoder: "TorchDecoder", tokens: "Tensor") -> "Tensor":
    from yearling.models.torch_decoder import Segments

    count, length = tokens.shape
    hidden: Tensor = decoder(tokens.reshape(-1), Segments([length] * count))
    return hidden


def windows_of(text: "Tensor", length: int, starts: "Tensor") -> Rows:
    """Cut rows out of a long text of ids."""
    import torch

    found = text[starts[:, None] + torch.arange(length + 1)]
    return Rows(found[:, :-1].contiguous(), found[:, 1:].contiguous())


def kept_decoder(
    name: str,
    settings: Mapping[str, Any],
    train: Callable[[], "TorchDecoder"],
    say: Callable[[str], None],
) -> "TorchDecoder":
    """Give a trained decoder, from its file if there is one.

    Args:
        name: Begins the file's name.
        settings: All that `train` depends on beside this module's code; JSON values. `sizes` are
            those of `decoder_of`, and `modules` names further code, as `System.parts` does.
        train: Makes it where there is none.
        say: Is told which of the two happened, and how long it took.
    """
    from safetensors.torch import load_file, save_file

    modules = ["systems.tiny_bases", *settings.get("modules", ())]
    known = json.dumps([settings, fingerprint(modules)], sort_keys=True)
    digest = hashlib.sha256(known.encode()).hexdigest()[:16]
    file = yearling_home() / "tiny-bases" / f"{name}-{digest}.safetensors"
    if file.exists():
        decoder = decoder_of(settings["sizes"], 0)
        decoder.load_state_dict(load_file(file))
        say(f"base {name}: read from {file.name}")
        return decoder
    started = perf_counter()
    decoder = train()
    say(f"base {name}: trained in {perf_counter() - started:.1f} s")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial")
    save_file(_tensors(decoder), partial)
    partial.replace(file)
    return decoder


def save_folder(decoder: "TorchDecoder", sizes: Mapping[str, Any], folder: Path) -> None:
    """Write a decoder as a Hugging Face folder without a tokenizer, which the engine serves.

    Args:
        sizes: What `decoder_of` made it from.
        folder: To be made.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file(_tensors(decoder), folder / "model.safetensors")
    config = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-6, **sizes}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def _tensors(module: "nn.Module") -> "dict[str, Tensor]":
    return {name: tensor.contiguous() for name, tensor in module.state_dict().items()}
