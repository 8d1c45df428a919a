"""`yearling bench`: measurements against named peers."""

import typer

__all__ = ["app"]

app = typer.Typer(help="Measure Yearling against other engines.", no_args_is_help=True)


@app.callback()
def _bench() -> None:
    """Measure Yearling against other engines."""
