"""One process of a parallel training run on a tiny model; writes what it saw as JSON.

Run by torchrun, or alone: `parallel_worker OUT_FOLDER DATA SHARD TENSOR [RESUME_FOLDER]`.
"""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from tests.models import torch_variants as variants
from yearling.models.spec import Head
from yearling.models.torch_decoder import (
    NO_LABEL,
    Segments,
    TorchDecoder,
    initialise,
    labelled_losses,
)
from yearling.training import checkpoint
from yearling.training.loop import Hooks, Loop, LoopConfig, Optimization, StepReport
from yearling.training.objective import Loss, Objective, Update
from yearling.training.parallel import ParallelConfig, Processes, ShareOfSource, process_group
from yearling.training.ranks import ALONE
from yearling.training.sharded import whole

Batch = tuple[torch.Tensor, torch.Tensor, Segments]
MICRO_BATCHES = 4


class Rows:
    """Steps of four micro-batches with different numbers of labels, seeded by the step."""

    def __init__(self) -> None:
        self.step = 0

    def next_step(self) -> Sequence[Batch]:
        generator = torch.Generator().manual_seed(self.step)
        self.step += 1
        return [self._batch(3 + 4 * number, generator) for number in range(MICRO_BATCHES)]

    def _batch(self, length: int, generator: torch.Generator) -> Batch:
        tokens = torch.randint(50, (length + 5,), generator=generator)
        labels = tokens.roll(-1)
        labels[[0, length - 1, -1]] = NO_LABEL
        return tokens, labels, Segments([length, 5])

    def row_names(self, batch: Batch) -> Sequence[str]:
        return [f"row of {len(batch[0])} tokens"]

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = state["step"]


def tiny_decoder(name: str) -> TorchDecoder:
    """A decoder with grouped queries and QK-norms, by the head it has."""
    normed = variants.attending(heads=8, kv_heads=4, query_norm=variants.RMS, key_norm=variants.RMS)
    layers = (variants.attending(heads=8, kv_heads=4), normed)
    spec = variants.model(*layers, head=Head(is_tied=name == "tied"))
    decoder = TorchDecoder(spec, variants.FAMILY, device="cpu")
    initialise(decoder, seed=5, std=0.2)
    return decoder


def objective_of(decoder: TorchDecoder) -> Objective[Batch]:
    def loss(batch: Batch) -> Loss:
        tokens, labels, segments = batch
        losses = labelled_losses(decoder, decoder(tokens, segments), labels)
        return Loss(losses.sum(), {"twice": 2 * float(losses.detach().sum())})

    def weight(batch: Batch) -> float:
        return float((batch[1] != NO_LABEL).sum())

    update = Update("loss", dict(decoder.named_parameters()), loss, weight)
    return Objective({"model": decoder}, [update])


def _adamw(update: Update[Any]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(update.parameters.values(), lr=0.01, weight_decay=0.1)


def train(
    config: ParallelConfig, out: Path, resume: Path | None, head: str, steps: int
) -> dict[str, Any]:
    """Train, save, and tell losses, norms and a digest of the final weights."""
    is_many = dist.is_initialized()
    processes = Processes(config) if is_many else None
    decoder = tiny_decoder(head)
    source: Any = Rows()
    if processes is not None:
        processes.lay_out(decoder)
        source = ShareOfSource(source, processes.rank, processes.size)
    reports: list[StepReport] = []
    hooks: Hooks[Batch] = Hooks(
        on_step=reports.append,
        ranks=processes or ALONE,
        save=lambda step, state, is_best: _save(out, step, state),
    )
    optimization = Optimization(_adamw)
    loop = Loop(objective_of(decoder), source, optimization, LoopConfig(steps, clip=0.5), hooks)
    if resume is not None:
        path = checkpoint.find_last(resume)
        assert path is not None
        loop.load_state_dict(checkpoint.load(path, loop.state_dict()))
    loop.run()
    weights = {name: whole(value) for name, value in decoder.state_dict().items()}
    return {
        "losses": [report.updates["loss"].loss for report in reports],
        "norms": [report.updates["loss"].grad_norm for report in reports],
        "twice": [report.updates["loss"].metrics["twice"] for report in reports],
        "weights": {name: value.flatten().tolist() for name, value in weights.items()},
        "digest": _digest(weights),
    }


def _save(out: Path, step: int, state: Mapping[str, Any]) -> None:
    checkpoint.save(out / "checkpoints", step, state, keep=2)


def _digest(weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].detach().contiguous().numpy().tobytes())
    return digest.hexdigest()


def main() -> None:
    """Read the command line, train each head, write `HEAD.json` from the first process."""
    torch.set_num_threads(1)
    out, resume = Path(sys.argv[1]), sys.argv[5] if len(sys.argv) > 5 else None
    data, shard, tensor = (int(word) for word in sys.argv[2:5])
    config = ParallelConfig(data=data, shard=shard, tensor=tensor)
    with process_group(timeout_seconds=60):
        for head in ("tied", "own"):
            source = None if resume is None else Path(resume) / head / "checkpoints"
            steps = 3 if resume is None else 6
            told = train(config, out / head, source, head, steps)
            if not dist.is_initialized() or dist.get_rank() == 0:
                (out / f"{head}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
