"""`yearling systems | run`: the catalogue of the year, and what its claims measure here."""

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from yearling.systems.catalogue import Listing
    from yearling.systems.result import Result
    from yearling.systems.system import System

__all__ = ["run", "systems"]


class _State(StrEnum):
    VERIFIED = "verified"
    STALE = "stale"
    RUNS = "runs"
    MISSING = "missing"


class _Scale(StrEnum):
    TINY = "tiny"
    PAPER = "paper"


def systems(
    area: Annotated[str | None, typer.Option(help="Only this area: training, media …")] = None,
    state: Annotated[_State | None, typer.Option(help="Only those in this state.")] = None,
    is_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the systems of 2023: what each claims, and whether its claim is verified here."""
    from yearling.systems.catalogue import State, list_systems

    listings = list_systems(area=area, state=None if state is None else State(state.value))
    if is_json:
        rows = [listing.as_json() for listing in listings]
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    _print_table([_cells(listing) for listing in listings])
    counts = {state: sum(each.state is state for each in listings) for state in State}
    typer.echo(", ".join(f"{count} {state}" for state, count in counts.items() if count), err=True)


def run(
    slug: Annotated[str, typer.Argument(help="The system, as `yearling systems` names it.")],
    scale: Annotated[
        _Scale,
        typer.Option(help="tiny measures on this machine; paper prints the authors' YAML."),
    ] = _Scale.TINY,
    seed: Annotated[
        int | None, typer.Option(help="Only this seed, without a spread; default: all.")
    ] = None,
    is_saved: Annotated[
        bool, typer.Option("--save", help="Make the result the one that the catalogue shows.")
    ] = False,
) -> None:
    """Measure a system's claim, with its essential part on and off.

    The exit status is 1 when a check fails.
    """
    from yearling.systems.catalogue import find_listing
    from yearling.systems.report import paper_configuration, verdict
    from yearling.systems.runner import run_system

    listing = find_listing(slug)
    system = _built(listing)
    if scale is _Scale.PAPER:
        typer.echo(paper_configuration(system), nl=False)
        return
    if is_saved and seed is not None:
        raise typer.BadParameter("--save needs every seed: leave out --seed.")
    result = run_system(
        system,
        None if seed is None else (seed,),
        say=lambda text: typer.echo(text, err=True),
    )
    typer.echo(f"# {listing.row.name}\n\n{verdict(system, result)}")
    if is_saved:
        _save(result, system)
    if result.problems(system):
        raise typer.Exit(1)


def _built(listing: "Listing") -> "System":
    from yearling.core.errors import CatalogueError

    if listing.system is None:
        raise CatalogueError(
            f"{listing.row.slug} is not built yet. It waits for {listing.row.waits_for}."
        )
    return listing.system


def _save(result: "Result", system: "System") -> None:
    from yearling.core.errors import CatalogueError
    from yearling.systems.result import write_result

    if idle := result.idle_checks(system):
        raise CatalogueError(f"the result is not saved: {'; '.join(idle)}.")
    typer.echo(f"wrote {write_result(result)}", err=True)


def _cells(listing: "Listing") -> tuple[str, ...]:
    row, system = listing.row, listing.system
    measured = "" if listing.measured is None else f"{listing.measured:.4g}"
    unit = "" if system is None else system.checks[0].unit
    chinese = "" if row.name_zh == row.name else row.name_zh
    last = f"{measured} {unit}" if measured else ""
    return row.slug, row.name, chinese, str(row.month), row.area, listing.state.value, last


def _print_table(rows: list[tuple[str, ...]]) -> None:
    """Print columns that align on a terminal, where a Chinese character takes two cells."""
    from rich.cells import cell_len, set_cell_size

    titles = ("SYSTEM", "NAME", "名称", "MONTH", "AREA", "STATE", "MEASURED")
    lines = [titles, *rows]
    widths = [max(cell_len(line[column]) for line in lines) for column in range(len(titles))]
    for line in lines:
        cells = [set_cell_size(text, width) for text, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())
