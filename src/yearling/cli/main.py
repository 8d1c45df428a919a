"""The program `yearling`: its commands, and how it ends.

Only typer is imported here; what a command needs is imported when it runs, so that
`yearling --help` answers at once.
"""

import sys
from typing import Annotated, NoReturn

import typer

from yearling.cli import (
    bench,
    chat,
    convert,
    data,
    doctor,
    explain,
    merge,
    models,
    parity,
    plan,
    serve,
    show,
    systems,
    train,
)
from yearling.core.errors import YearlingError

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="yearling",
    help="The first year of large language models, from a laptop CPU up.",
    no_args_is_help=True,
    # Rich help pages cost 0.1 s at every start.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={
        "help_option_names": ["-h", "--help"],
        # --max_tokens means --max-tokens.
        "token_normalize_func": lambda word: word.replace("_", "-"),
    },
)

app.command("chat")(chat.chat)
app.command("serve")(serve.serve)
app.command("pull")(models.pull)
app.command("list")(models.list_)
app.command("show")(show.show)
app.command("rm")(models.remove)
app.command("convert")(convert.convert)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("plan")(plan.plan)
app.command("parity")(parity.parity)
app.command("explain")(explain.explain)
app.command("merge")(merge.merge)
app.command("systems")(systems.systems)
app.command("run")(systems.run)
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


@app.command("version")
def version() -> None:
    """Print the version."""
    from yearling import __version__

    typer.echo(f"yearling {__version__}")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        version()
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """The first year of large language models, from a laptop CPU up."""


def main() -> NoReturn:
    """Run the program: an error of ours is one message and exit status 1, not a traceback."""
    try:
        app()
    except YearlingError as error:
        from yearling.core.log import escape_controls

        lines = [escape_controls(line) for line in str(error).split("\n")]
        print("error: " + "\n".join(lines), file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    sys.exit(0)


if __name__ == "__main__":
    main()
