"""What a result says, for people: Markdown for the terminal and the docs, and a chart."""

import io
from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import yaml

from yearling.core.lineage import hash_json
from yearling.systems.catalogue import Listing, State
from yearling.systems.result import Result, ResultCurve
from yearling.systems.system import Check, System

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["chart", "chart_id", "index_table", "page", "paper_configuration", "verdict"]


def verdict(system: System, result: Result) -> str:
    """Say what was claimed, published and measured, and what follows."""
    problems = result.problems(system)
    ends = ["**Verdict.** Not shown:", "", *(f"- {problem}" for problem in problems)]
    if not problems:
        ends = [f"**Verdict.** Every check holds; with {system.ablation.what}, {_broken(system)}."]
    return "\n".join(
        [
            f"**Claim.** {system.claim}",
            "",
            f"**Published.** {system.published.figure} ({system.published.source}).",
            "",
            f"**Not shown here.** {system.honesty}",
            "",
            *_table(system, result),
            "",
            *ends,
        ]
    )


def page(listing: Listing) -> str:
    """Give the generated part of the page of a built system."""
    system, row = listing.system, listing.row
    assert system is not None, "only built systems have a page"
    month = "all year" if row.month == "all" else f"2023-{row.month:02}"
    head = f"{row.name_zh} · {month} · {row.kind} · state: **{_state(listing)}**"
    parts = "Parts: " + ", ".join(f"`{part}`" for part in system.parts) + "."
    if listing.result is None:
        body = [f"**Claim.** {system.claim}", "", "Nothing has been measured yet."]
    else:
        body = [verdict(system, listing.result), "", _where(listing.result)]
        if listing.result.curves:
            body += ["", f"![Curves of {row.name}]({row.slug}.svg)"]
    meanings = [f"- `{check.name}`: {check.meaning}" for check in system.checks]
    command = ["```sh", f"yearling run {row.slug}", "```"]
    return "\n".join([head, "", *body, "", *meanings, "", parts, "", *command])


def index_table(listings: Iterable[Listing]) -> str:
    """Give the table of all systems."""
    rows = ["| system | 名称 | month | area | state | measured |", "|---|---|---|---|---|---|"]
    for listing in listings:
        row = listing.row
        name = row.name if listing.system is None else f"[{row.name}]({row.slug}.md)"
        measured = "" if listing.measured is None else f"{listing.measured:.4g}"
        if listing.system is not None and measured:
            measured = f"{measured} {listing.system.checks[0].unit}"
        last = measured if listing.state is not State.MISSING else f"waits for {row.waits_for}"
        month = row.month
        rows.append(
            f"| {name} | {row.name_zh} | {month} | {row.area} | {_state(listing)} | {last} |"
        )
    return "\n".join(rows)


def paper_configuration(system: System) -> str:
    """Give the configuration that the authors used, as YAML."""
    head = f"# {system.slug}: as published in {system.published.source}\n"
    return head + yaml.safe_dump(dict(system.paper), sort_keys=False, allow_unicode=True)


def chart_id(result: Result) -> str:
    """Name the curves of a result, so that a picture can be told to be of an older one."""
    return hash_json([curve.model_dump(mode="json") for curve in result.curves])


def chart(result: Result) -> str:
    """Draw the curves of a result as SVG; curves with equal axes share a chart.

    Needs matplotlib.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    kinds = [
        list(curves) for _, curves in groupby(sorted(result.curves, key=_axes_of), key=_axes_of)
    ]
    with matplotlib.rc_context({"svg.hashsalt": result.slug, "svg.fonttype": "none"}):
        figure = Figure(figsize=(6.4 * len(kinds), 4.0), layout="constrained")
        FigureCanvasSVG(figure)
        for number, curves in enumerate(kinds, start=1):
            _draw(figure.add_subplot(1, len(kinds), number), curves)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Description": chart_id(result)})
    return text.getvalue()


def _state(listing: Listing) -> str:
    """The state when it was measured: a page cannot know what has changed since."""
    return (State.VERIFIED if listing.state is State.STALE else listing.state).value


def _draw(axes: "Axes", curves: Sequence[ResultCurve]) -> None:
    for curve in curves:
        axes.plot(*zip(*curve.points, strict=True), marker="o", markersize=3, label=curve.name)
    axes.set_xlabel(curves[0].x_label)
    axes.set_ylabel(curves[0].y_label)
    positive = [x for curve in curves for x, _ in curve.points if x > 0]
    if positive and max(positive) >= 100 * min(positive):
        axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")


def _axes_of(curve: ResultCurve) -> tuple[str, str]:
    return curve.x_label, curve.y_label


def _table(system: System, result: Result) -> list[str]:
    rows = [
        "| check | bound | measured | min … max | std | ablation | |",
        "|---|---|---|---|---|---|---|",
    ]
    rows += [_row(check, result) for check in system.checks]
    told = [name for name in result.figures if name not in {c.name for c in system.checks}]
    rows += [
        f"| {name} | – | {_spread(result.figures[name])} | {_ablated(result, name)} | |"
        for name in told
    ]
    return rows


def _row(check: Check, result: Result) -> str:
    values = result.figures[check.name]
    mark = "holds" if check.holds(values) else "**fails**"
    judged = " (worst)" if check.is_worst_judged else ""
    return (
        f"| {check.name} | {check.bound}{judged} | {_spread(values)} | "
        f"{_ablated(result, check.name)} | {mark} |"
    )


def _spread(values: Sequence[float]) -> str:
    deviation = f"{stdev(values):.2g}" if len(values) > 1 else "–"
    return f"{fmean(values):.4g} | {min(values):.4g} … {max(values):.4g} | {deviation}"


def _ablated(result: Result, name: str) -> str:
    values = result.ablated.get(name, ())
    if not values:
        return "–"
    known = [value for value in values if value is not None]
    return f"{fmean(known):.4g}" if len(known) == len(values) else "not finite"


def _broken(system: System) -> str:
    names = system.ablation.breaks
    return f"{', '.join(names)} {'fails' if len(names) == 1 else 'fail'}"


def _where(result: Result) -> str:
    machine = result.machine
    seeds = ", ".join(map(str, result.seeds))
    total = sum(result.seconds) + result.ablation_seconds
    return (
        f"Measured {result.created[:10]} by Yearling {result.version} on {machine.processor}, "
        f"{machine.cores} cores, {machine.system}, Python {machine.python}: seeds {seeds}, "
        f"{total:.0f} s with the ablation."
    )
