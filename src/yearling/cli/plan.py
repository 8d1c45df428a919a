"""`yearling plan`: what a training run will take, and whether it fits here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from yearling.cli.sizes import size_text

if TYPE_CHECKING:
    from yearling.training.plan import RunPlan

__all__ = ["plan"]


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; repeat for more."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate memory, disk and time of a training run; exit 1 if it cannot fit, and say why."""
    from yearling.core.config import load_config
    from yearling.training.config import TrainConfig
    from yearling.training.plan import check_fits, plan_run

    settings = load_config(TrainConfig, config, overrides or ())
    planned = plan_run(settings)
    if as_json:
        typer.echo(json.dumps(_json(planned), indent=1))
    else:
        for line in _lines(planned):
            typer.echo(line)
    check_fits(settings, planned)


def _json(plan: "RunPlan") -> dict[str, object]:
    from dataclasses import asdict

    return {**asdict(plan), "needed": plan.needed, "seconds": plan.seconds}


def _lines(plan: "RunPlan") -> Iterator[str]:
    share = plan.trained / plan.parameters
    yield f"{'parameters':12} {plan.parameters:,}, {plan.trained:,} trained ({share:.1%})"
    yield f"{'memory':12} {size_text(plan.needed)} at the peak, {size_text(plan.available)} free"
    for part in plan.memory:
        note = f"  {part.note}" if part.note else ""
        yield f"  {part.name:11} {size_text(part.num_bytes):>9}{note}"
    disk, each = size_text(plan.disk_bytes), size_text(plan.checkpoint_bytes)
    free = size_text(plan.free_disk_bytes)
    yield f"{'disk':12} {disk}, {each} a checkpoint, {free} free"
    yield from _data_lines(plan)


def _data_lines(plan: "RunPlan") -> Iterator[str]:
    data = plan.data
    if data.rows is not None:
        yield f"{'rows':12} {data.rows:,}"
    if data.tokens is not None:
        learned = "" if data.labels is None else f", {data.labels:,} learned"
        yield f"{'tokens':12} {data.tokens:,}{learned}, over {data.steps:,} steps"
    if data.note:
        yield f"{'note':12} {data.note}"
    rate = plan.flops_per_second / plan.flops_per_token
    yield f"{'speed':12} at most {rate:,.0f} tokens/s ({plan.flops_per_second / 1e9:.0f} GFLOP/s)"
    if plan.seconds is not None:
        yield f"{'time':12} at least {_time_text(plan.seconds)}"


def _time_text(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7_200 else f"{seconds / 3_600:.1f} h"
