"""`yearling pull | list | rm`: the model store."""

import sys
from typing import Annotated

import typer

from yearling.cli.sizes import size_text

__all__ = ["list_", "pull", "remove"]

_Name = Annotated[
    str, typer.Argument(help="Store name, for example smollm2, hf:ORG/NAME, or hf:ORG/NAME:Q4_K_M.")
]


def pull(
    name: _Name,
    accept_licence: Annotated[
        bool, typer.Option("--accept-licence", help="Accept the model's terms without a question.")
    ] = False,
) -> None:
    """Bring a model into the store."""
    from yearling.cli.progress import download_bar
    from yearling.models import store

    terms = store.terms_to_accept(name)
    if terms is not None and not accept_licence and sys.stdin.isatty():
        typer.echo(f"{name} comes under the {terms.title}: {terms.address}", err=True)
        typer.confirm("Have you read them, and do you accept them?", abort=True, err=True)
        accept_licence = True
    with download_bar(name) as progress:
        path = store.pull(name, progress, accept_licence=accept_licence)
    typer.echo(path)


def list_() -> None:
    """List the models in the store."""
    from yearling.models import store

    models = store.installed()
    if not models:
        typer.echo("The store is empty. Get a model with: yearling pull smollm2", err=True)
        return
    width = max(len(model.name) for model in models)
    typer.echo(f"{'NAME':{width}}  {'SIZE':>9}  {'KIND':6}  {'PULLED':10}  LICENCE")
    for model in models:
        typer.echo(
            f"{model.name:{width}}  {size_text(model.size_bytes):>9}  {model.kind:6}  "
            f"{model.pulled[:10]}  {model.licence}"
        )


def remove(
    name: _Name,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a model from the store."""
    from yearling.models import store

    if not is_sure:
        typer.confirm(f"Delete {name} from the store?", abort=True, err=True)
    store.remove(name)
    typer.echo(f"removed {name}")
