"""`yearling train`: a configuration becomes a trained model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yearling.training.trainer import TrainResult

__all__ = ["train"]

_SIGNAL_STATUS = 128  # what shells add to a signal's number


def train(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file; may be left out with the options below.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Set one key, for example optimizer.lr=1e-4."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint of the output folder.")
    ] = False,
    model: Annotated[str | None, typer.Option(help="Model to start from.")] = None,
    data: Annotated[str | None, typer.Option(help="File or folder of rows.")] = None,
    method: Annotated[str | None, typer.Option(help="Training method. [sft]")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the run.")] = None,
) -> None:
    """Train a model on rows of text and write a folder that serves."""
    quick = {"model": model, "data": data, "method": method, "output": output}
    chosen = [f"{key}={_quoted(str(value))}" for key, value in quick.items() if value is not None]
    _require_torch()
    from yearling.core.config import load_config
    from yearling.training.config import TrainConfig
    from yearling.training.trainer import train as run

    result = run(load_config(TrainConfig, config, [*chosen, *(overrides or ())]), resume=resume)
    _print(result, config)


def _require_torch() -> None:
    """Say what to install before anything of the training extra is imported."""
    from importlib.util import find_spec

    from yearling.core.errors import UnsupportedError

    missing = [name for name in ("torch", "jaxtyping", "peft") if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"training needs {' and '.join(missing)}, and this is the small install.\n"
            "  pip install 'yearling[train]'"
        )


def _quoted(value: str) -> str:
    """A YAML string, whatever it holds."""
    import json

    return json.dumps(value, ensure_ascii=False)


def _print(result: "TrainResult", config: Path | None) -> None:
    loop = result.loop
    if result.resumed_at:
        typer.echo(f"went on from step {result.resumed_at}")
    if loop.reason == "asked":
        name = "a signal" if result.signal is None else result.signal.name
        typer.echo(
            f"stopped by {name} after step {loop.step}; saved in {result.output}.\n"
            f"  Go on with: yearling train {config or '…'} --resume",
            err=True,
        )
        raise typer.Exit(_SIGNAL_STATUS + (result.signal or 0))
    if result.model is None:
        return  # another process writes and tells
    said = {
        "max_steps": "",
        "end_of_data": ", the end of the data",
        "max_seconds": ", when its time was over",
        "patience": f", since the loss has not fallen after step {loop.best_step}",
    }
    typer.echo(f"trained {loop.step} steps{said[loop.reason]}, last loss {loop.loss:.4f}")
    if loop.best_loss is not None:
        typer.echo(f"best validation loss {loop.best_loss:.4f} after step {loop.best_step}")
    typer.echo(f"wrote {result.model}, lineage {(result.record or '')[:12]}")
    _print_context(result.model)


def _print_context(model: Path) -> None:
    """Say what other tools would do with an adapter that has positions of its own."""
    from yearling.training.context import context_notice, read_adapter_context

    if (saved := read_adapter_context(model)) is not None:
        typer.echo(f"note: {context_notice(saved.context)}", err=True)
