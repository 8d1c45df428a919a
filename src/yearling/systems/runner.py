"""Runs a system: its seeds, then its ablation, each in an empty folder of its own."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from yearling import __version__
from yearling.core.errors import CatalogueError
from yearling.systems.fingerprint import fingerprint
from yearling.systems.result import Result, ResultCurve, this_machine
from yearling.systems.system import Curve, System, Trial, entry_name, systems

__all__ = ["run_system", "sources_of"]

_ENTRIES = "systems.entries"


def run_system(
    system: System,
    seeds: Sequence[int] | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> Result:
    """Measure a system with each seed, then with its essential part off.

    Args:
        seeds: Instead of the system's own; the ablation takes the first of them.
        say: Is told what goes on, a line at a time.

    Raises:
        CatalogueError: a run leaves out a figure, or gives one that is not a finite number.
    """
    seeds = tuple(system.seeds if seeds is None else seeds)
    sources = sources_of(system)  # before the run: what may change while it runs was not run
    runs = [_run(system, seed, False, say) for seed in seeds]
    ablated_seeds = seeds[: system.ablation.num_seeds]
    ablated = [_run(system, seed, True, say) for seed in ablated_seeds]
    return Result(
        slug=system.slug,
        version=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=this_machine(),
        seeds=seeds,
        figures={name: tuple(run.figures[name] for run in runs) for name in runs[0].figures},
        ablated={
            name: tuple(_finite(run.figures[name]) for run in ablated)
            for name in ablated[0].figures
        },
        seconds=tuple(round(run.seconds, 2) for run in runs),
        ablation_seconds=round(sum(run.seconds for run in ablated), 2),
        curves=(*_curves(runs[0]), *_curves(ablated[0], f" ({system.ablation.what})")),
        sources=sources,
    )


def sources_of(system: System) -> dict[str, str]:
    """Give the hash of each module that the system's result depends on."""
    own = f"{_ENTRIES}.{entry_name(system.slug)}"
    # A system of another package has no file here; its parts still are ours.
    roots = [own] if entry_name(system.slug) in _names_here() else []
    return fingerprint([*roots, *system.parts])


def _names_here() -> set[str]:
    folder = Path(__file__).with_name("entries")
    return {file.stem for file in folder.glob("*.py")}


@dataclass(frozen=True)
class _Run:
    figures: Mapping[str, float]
    seconds: float
    curves: Sequence[Curve]


def _run(system: System, seed: int, is_ablated: bool, say: Callable[[str], None]) -> _Run:
    title = f"seed {seed}" + (f", {system.ablation.what}" if is_ablated else "")
    say(title)
    with TemporaryDirectory(prefix=f"yearling-{system.slug}-") as folder:
        trial = Trial(seed, is_ablated, Path(folder), lambda text: say(f"  {text}"))
        started = perf_counter()
        figures = {name: float(value) for name, value in system.run(trial).items()}
        seconds = perf_counter() - started
    _check_figures(system, figures, title, is_ablated)
    say(f"  {seconds:.1f} s")
    return _Run(figures, seconds, trial.curves)


def _check_figures(
    system: System, figures: Mapping[str, float], title: str, is_ablated: bool
) -> None:
    names = system.ablation.breaks if is_ablated else [check.name for check in system.checks]
    missing = [name for name in names if name not in figures]
    if missing:
        raise CatalogueError(
            f"{system.slug} gave no {', '.join(missing)} ({title}); it gave "
            f"{', '.join(figures) or 'nothing'}."
        )
    if not is_ablated:
        for name, value in figures.items():
            if not math.isfinite(value):
                raise CatalogueError(f"{system.slug}: {name} is {value} ({title}).")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curves(run: _Run, suffix: str = "") -> list[ResultCurve]:
    return [
        ResultCurve(
            name=curve.name + suffix,
            x_label=curve.x_label,
            y_label=curve.y_label,
            points=tuple((float(x), float(y)) for x, y in curve.points),
        )
        for curve in run.curves
    ]


assert systems.package.endswith(_ENTRIES), "the folder of the registry is the one hashed here"
