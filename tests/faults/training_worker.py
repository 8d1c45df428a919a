"""A tiny run with everything random that training has, to be killed: dropout, shuffling, AdamW.

`training_worker alone FOLDER KILLS` forks one process after another and kills each: torch is
imported once. `training_worker rank FOLDER STEP…` is one of torchrun's processes; rank 1 kills
itself at each of the steps, once. `training_worker spoiled FOLDER` meets a NaN in step 7.
"""

import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psutil
import torch
import torch.distributed as dist
from torch import nn

from yearling.training import checkpoint, durable
from yearling.training.loop import Hooks, Loop, LoopConfig, Optimization, StepReport
from yearling.training.objective import Loss, Objective, Update
from yearling.training.parallel import ParallelConfig, Processes, ShareOfSource, process_group
from yearling.training.ranks import ALONE, Ranks
from yearling.training.schedules import ScheduleConfig
from yearling.training.state_json import to_json

STEPS, SAVE_EVERY, ROWS = 60, 5, 40
INSIDE = ("state.json", "manifest.json", "pointer")
"""Where in a save the forced kills come."""


class ShuffledRows:
    """Two micro-batches of four rows a step, shuffled anew in every pass."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.random = torch.Generator().manual_seed(11)

    def next_step(self) -> Sequence[torch.Tensor]:
        return [self._take(4), self._take(4)]

    def _take(self, count: int) -> torch.Tensor:
        while len(self.order) < count:
            self.order += torch.randperm(ROWS, generator=self.random).tolist()
        taken, self.order = self.order[:count], self.order[count:]
        return torch.tensor(taken)

    def row_names(self, batch: torch.Tensor) -> Sequence[str]:
        return [f"row {number}" for number in batch.tolist()]

    def state_dict(self) -> dict[str, Any]:
        return {"order": list(self.order), "random": self.random.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.order = list(state["order"])
        self.random.set_state(state["random"])


def make_objective(spoils: Callable[[], bool]) -> Objective[torch.Tensor]:
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(6, 24), nn.Dropout(0.3), nn.Tanh(), nn.Linear(24, 1))
    inputs = torch.randn(ROWS, 6)
    targets = inputs.sin().sum(1)

    def loss(rows: torch.Tensor) -> Loss:
        total = (model(inputs[rows])[:, 0] - targets[rows]).square().sum()
        return Loss(total * float("nan") if spoils() else total)

    return Objective(
        {"model": model}, [Update("loss", dict(model.named_parameters()), loss, lambda b: len(b))]
    )


def train(
    folder: Path,
    *,
    steps: int = STEPS,
    every: int = SAVE_EVERY,
    ranks: Ranks = ALONE,
    after_step: Callable[[int], None] = lambda step: None,
    spoils: Callable[[], bool] = lambda: False,
) -> None:
    """Go on from the last checkpoint to the end, with a log of losses that can be taken up."""
    log = folder / "losses.jsonl"
    checkpoints = folder / "checkpoints"
    found = checkpoint.recover(checkpoints)
    start = 0 if found is None else durable.step_of(found)
    if ranks.is_first:
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        log.write_text("".join(lines[:start]))

    def on_step(report: StepReport) -> None:
        if ranks.is_first:
            with log.open("a") as file:
                update = report.updates["loss"]
                file.write(
                    json.dumps([report.step, update.loss, update.grad_norm, update.lr]) + "\n"
                )
        after_step(report.step)

    source: Any = ShareOfSource(ShuffledRows(), ranks.rank, ranks.size)
    optimization = Optimization(
        lambda update: torch.optim.AdamW(update.parameters.values(), lr=0.02),
        schedule=ScheduleConfig(name="cosine"),
    )
    hooks: Hooks[torch.Tensor] = Hooks(
        on_step=on_step,
        save=lambda step, state, is_best: _save(checkpoints, step, state),
        ranks=ranks,
    )
    config = LoopConfig(steps, seed=7, checkpoint_every=every)
    loop = Loop(make_objective(spoils), source, optimization, config, hooks)
    if found is not None:
        loop.load_state_dict(checkpoint.load(found, loop.state_dict()))
    loop.run()


def _save(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    checkpoint.save(folder, step, state, keep=2)


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of each part of what a run ended with; times are left out."""
    found = checkpoint.find_last(folder / "checkpoints")
    assert found is not None
    state = checkpoint.load(found)
    state["progress"].pop("seconds")
    parts = {
        name: json.dumps(to_json(value, None), sort_keys=True) for name, value in state.items()
    }
    parts["log"] = (folder / "losses.jsonl").read_text()
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in parts.items()}


def run_alone(folder: Path, kills: int) -> None:
    """Train once in peace and once with kills, three of them inside a save; print what came."""
    torch.set_num_threads(1)
    steps = STEPS * kills // 10
    whole, killed = folder / "whole", folder / "killed"
    whole.mkdir()
    killed.mkdir()
    train(whole, steps=steps)  # here, so that what it imports is there for all that are forked
    random = Random(20)
    told = []
    for number in range(kills):
        place = INSIDE[number // 3] if number % 3 == 1 and number < 9 else None
        moment = None if place else (random.randint(1, 12), random.uniform(0, 0.02))
        status = _fork(lambda pipe, place=place: _train_slowly(killed, steps, pipe, place), moment)
        last = durable.find_last(killed / "checkpoints")
        told.append([place, status, 0 if last is None else durable.step_of(last)])
    assert _fork(lambda pipe: train(killed, steps=steps)) == 0
    print(json.dumps({"whole": digest(whole), "killed": digest(killed), "kills": told}))


def _train_slowly(folder: Path, steps: int, pipe: int, place: str | None) -> None:
    if place is not None:
        _kill_inside(place)

    def after_step(step: int) -> None:
        os.write(pipe, b".")
        time.sleep(0.01)

    train(folder, steps=steps, after_step=after_step)


def _kill_inside(place: str) -> None:
    """End this process in the midst of the next save."""
    write, point = durable.write_file, durable.point

    def killing_write(path: Path, content: bytes) -> None:
        if path.name == place:
            path.write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(path, content)

    def killing_point(root: Path, name: str, target: Path) -> None:
        if place == "pointer":
            os.kill(os.getpid(), signal.SIGKILL)
        point(root, name, target)

    durable.write_file, durable.point = killing_write, killing_point


def _fork(work: Callable[[int], None], moment: tuple[int, float] | None = None) -> int:
    """Work in a process of its own, given a pipe to tell its steps; -9 when it was killed.

    Args:
        moment: After how many steps it is killed, and how many seconds after them.
    """
    told, telling = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work(telling)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    os.close(telling)
    if moment is not None:
        for _ in range(moment[0]):
            os.read(told, 1)
        time.sleep(moment[1])
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(told)
    return status


def run_rank(folder: Path, kill_steps: Sequence[int]) -> None:
    """Be one of torchrun's processes; rank 0 tells where anything of the run listens."""
    torch.set_num_threads(1)
    with process_group(timeout_seconds=60):
        ranks = Processes(ParallelConfig())

        def after_step(step: int) -> None:
            mark = folder / f"killed-at-{step}"
            if step in kill_steps and ranks.rank == 1 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        if ranks.is_first:
            (folder / "listening.json").write_text(json.dumps(_listening()))
        train(folder, steps=14, every=2, ranks=ranks, after_step=after_step)
        if dist.get_rank() == 0:
            (folder / "done.json").write_text("{}")


def run_spoiled(folder: Path) -> None:
    """Train as a job would, with a loss of NaN in step 7."""
    done = [0]
    train(folder, every=2, after_step=done.append, spoils=lambda: done[-1] == 6)


def _listening() -> list[str]:
    """Addresses at which this process or torchrun listens."""
    here = psutil.Process()
    return [
        connection.laddr.ip
        for process in (here, here.parent())
        if process is not None
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    ]


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        run_alone(Path(sys.argv[2]), int(sys.argv[3]))
    elif sys.argv[1] == "spoiled":
        run_spoiled(Path(sys.argv[2]))
    else:
        run_rank(Path(sys.argv[2]), [int(word) for word in sys.argv[3:]])
