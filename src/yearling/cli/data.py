"""`yearling data show | check`: rows as a model will see them, and what would become of each."""

import json
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yearling.data.check import DataCheck
    from yearling.data.config import DataConfig
    from yearling.data.ledger import Ledger
    from yearling.data.lengths import LengthLimit
    from yearling.data.render import Renderer

__all__ = ["app"]

_HASH_DIGITS = 16
_DEFAULT_LENGTH = 2_048  # of a model that does not say how much it reads

app = typer.Typer(
    help="Look at training data before training on them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class _Overlong(StrEnum):
    drop = "drop"
    truncate = "truncate"


_Paths = Annotated[
    list[str],
    typer.Argument(
        metavar="PATH",
        help="Files, folders, globs, or hf:ORG/NAME:SPLIT; PATH#500 takes a sample of 500 rows.",
    ),
]
_Model = Annotated[
    str, typer.Option(help="Store name, GGUF file or checkpoint folder whose template renders.")
]
_Template = Annotated[
    str | None,
    typer.Option(help="Name of a chat template, or path of a .jinja file. [the model's]"),
]
_Schema = Annotated[str, typer.Option(help="What the columns mean, for example alpaca.")]
_MaxLength = Annotated[
    int | None, typer.Option(min=2, help="Longest row in tokens. [the model's context]")
]
_WhenLong = Annotated[_Overlong, typer.Option(help="What becomes of longer rows.")]


@app.command()
def show(
    paths: _Paths,
    model: _Model,
    mask: Annotated[
        bool, typer.Option("--mask", help="Mark the tokens that carry loss, one by one.")
    ] = False,
    rows: Annotated[int, typer.Option(min=1, help="Rows to show.")] = 5,
    schema: _Schema = "auto",
    chat_template: _Template = None,
    max_length: _MaxLength = None,
    overlong: _WhenLong = _Overlong.drop,
) -> None:
    """Print rows as the text and the tokens that a model is trained on."""
    from itertools import islice

    from yearling.core.environment import read_variable
    from yearling.data.check import encoded_rows
    from yearling.data.ledger import Ledger
    from yearling.data.mask_view import row_lines

    renderer, limit = _renderer(model, chat_template, max_length, overlong)
    ledger = Ledger()
    has_colour = sys.stdout.isatty() and not read_variable("NO_COLOR")
    shown = encoded_rows(_config(paths, schema, 1.0), renderer, limit, ledger)
    for row in islice(shown, rows):
        lines = row_lines(row, renderer.tokenizer, has_mask=mask, has_colour=has_colour)
        typer.echo("\n".join(lines) + "\n", color=has_colour)
    for line in _lost_lines(ledger):
        typer.echo(line, err=True)
    typer.echo(f"template and tokenizer {renderer.template_hash[:_HASH_DIGITS]}")


@app.command()
def check(
    paths: _Paths,
    model: _Model,
    schema: _Schema = "auto",
    chat_template: _Template = None,
    max_length: _MaxLength = None,
    overlong: _WhenLong = _Overlong.drop,
    max_drop: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Largest share of rows that may be lost.")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Pass all rows through the ledger; the exit status is 1 when too many would be lost."""
    from yearling.data.check import check_data

    renderer, limit = _renderer(model, chat_template, max_length, overlong)
    found = check_data(_config(paths, schema, max_drop), renderer, limit)
    if as_json:
        typer.echo(json.dumps(found.report(), indent=1, ensure_ascii=False))
    else:
        typer.echo("\n".join(_report_lines(found)))
    if not found.is_good:
        typer.echo(f"error: {_verdict(found)}", err=True)
        raise typer.Exit(1)


def _renderer(
    model: str, chat_template: str | None, max_length: int | None, overlong: _Overlong
) -> "tuple[Renderer, LengthLimit]":
    from yearling.data.lengths import LengthLimit
    from yearling.data.render import Renderer
    from yearling.models import store

    store.ensure(model)
    renderer = Renderer.open(model, chat_template=chat_template)
    longest = max_length or renderer.context or _DEFAULT_LENGTH
    return renderer, LengthLimit(longest, overlong.value)


def _config(paths: list[str], schema: str, max_drop: float) -> "DataConfig":
    from yearling.data.config import DataConfig
    from yearling.data.schema import schemas

    names = ["auto", *(each.name for each in schemas())]
    if schema not in names:
        raise typer.BadParameter(f"--schema {schema} is none of {', '.join(names)}.")
    return DataConfig.model_validate(
        {"paths": tuple(paths), "row_schema": schema, "max_drop": max_drop}
    )


def _report_lines(found: "DataCheck") -> Iterator[str]:
    ledger = found.ledger
    truncated = sum(entry.count for entry in ledger.truncated.values())
    yield f"{'rows in':16} {ledger.rows_in:>10,}"
    yield f"{'kept':16} {ledger.kept:>10,}" + (f"  ({truncated:,} truncated)" if truncated else "")
    yield f"{'dropped':16} {ledger.num_lost:>10,}"
    yield from _lost_lines(ledger)
    if ledger.num_filtered:
        yield f"{'filtered out':16} {ledger.num_filtered:>10,}"
    for reason, entry in ledger.truncated.items():
        yield f"  truncated {entry.count:,}: {reason}, first {entry.rows[0][0]}"
    for column, count in ledger.unused_columns.items():
        yield f"  column {column} is not read, in {count:,} rows"
    yield f"{'tokens':16} {found.num_tokens:>10,}"
    yield f"{'with loss':16} {found.num_labels:>10,}"
    if found.lengths:
        words = [f"{_share(share)} {length:,}" for share, length in found.lengths.items()]
        yield f"{'tokens a row':16} {', '.join(words)}"
    yield f"{'template':16} {found.template_hash[:_HASH_DIGITS]}"


def _share(share: int) -> str:
    return {0: "least", 50: "median", 100: "most"}.get(share, f"{share} %")


def _lost_lines(ledger: "Ledger") -> Iterator[str]:
    from yearling.core.log import escape_controls

    for reason, entry in sorted(ledger.lost.items(), key=lambda item: -item[1].count):
        row, detail = entry.rows[0]
        yield f"  dropped {entry.count:,}: {reason}"
        yield f"    {escape_controls(f'{row} {detail}'.rstrip())}"


def _verdict(found: "DataCheck") -> str:
    ledger = found.ledger
    if not ledger.kept:
        return f"none of {ledger.rows_in} rows can be trained on."
    return (
        f"{ledger.num_lost} of {ledger.rows_in} rows would be lost, "
        f"{ledger.num_lost / ledger.rows_in:.2%}; max_drop allows {found.max_drop:.2%}. "
        "Mend the rows, or set --max-drop higher."
    )
