"""What a system is to the catalogue: its claim, the figures it gives, and when they are enough.

A system is one file, `systems/entries/<slug with _ for ->.py` (with `system_` in front of a slug
that begins with a digit), that composes parts of the platform and measures the claim:

    def run(trial: Trial) -> Mapping[str, float]:
        model = train(seed=trial.seed, with_selection=not trial.is_ablated)
        trial.say("trained; now copying")
        return {"copied": share_copied(model)}

    system = systems.register(
        System(
            slug="mamba",
            claim="…one sentence…",
            published=Published("99.8 % of tokens", "Gu and Dao 2023, arXiv:2312.00752, table 1"),
            honesty="What differs here from the paper: size, data, length of training.",
            parts=("models.torch_decoder", "serving.engine"),
            checks=(Check("copied", "% of tokens", at_least=97.0, meaning="…"),),
            run=run,
            ablation=Ablation("selection off: fixed step, B and C", breaks=("copied",)),
            paper={"model": "…", "tokens": 300_000_000},
        ),
        __name__,
    )

The file imports torch inside `run`, so that the list of systems needs none. `parts` names what is
reached by a registry's word as well, since a result is stale when the file, one of its parts or
anything of ours that these import has changed. The first check is the headline: `yearling
systems` shows its measured value beside the published figure. A threshold is written down before
anything is measured, and is never lowered.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from yearling.core.registry import Registry

__all__ = [
    "Ablation",
    "Check",
    "Curve",
    "Published",
    "System",
    "Trial",
    "entry_name",
    "systems",
]

MIN_SEEDS = 3


@dataclass(frozen=True)
class Published:
    """A figure that its authors reported.

    Attributes:
        figure: The value with its unit and what it was measured on.
        source: Paper or page, with the table, figure or section.
    """

    figure: str
    source: str


@dataclass(frozen=True)
class Check:
    """A figure of a system and the bound that it must keep.

    Attributes:
        name: Key in what `run` gives.
        unit: Of the figure, as shown to a reader: `%`, `x`, `tokens/s`.
        meaning: One sentence: what is counted or compared with what.
        at_least: Lower bound; give this one or the other.
        at_most: Upper bound.
        is_worst_judged: Whether the worst seed must keep the bound, rather than the mean.
    """

    name: str
    unit: str
    meaning: str
    at_least: float | None = None
    at_most: float | None = None
    is_worst_judged: bool = False

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(
                f"check {self.name!r} has at_least={self.at_least} and at_most={self.at_most}: "
                "give exactly one, or it cannot fail."
            )

    @property
    def bound(self) -> str:
        """The bound in words: `≥ 97 %`."""
        sign, limit = ("≥", self.at_least) if self.at_most is None else ("≤", self.at_most)
        return f"{sign} {limit:g} {self.unit}".rstrip()

    def judged(self, values: Sequence[float]) -> float:
        """Give the value that the bound is held against: the mean over seeds, or the worst."""
        if not self.is_worst_judged:
            return fmean(values)
        # NaN compares false with everything, so min and max could step over it.
        if any(value != value for value in values):
            return float("nan")
        return min(values) if self.at_most is None else max(values)

    def holds(self, values: Sequence[float]) -> bool:
        """Say whether the figures of all seeds keep the bound; a figure that is NaN does not.

        >>> Check("copied", "%", "Share of tokens.", at_least=97).holds([98, 99, 96])
        True
        """
        value = self.judged(values)
        if self.at_most is None:
            assert self.at_least is not None
            return value >= self.at_least
        return value <= self.at_most


@dataclass(frozen=True)
class Ablation:
    """The essential part of a system switched off, which must make checks fail.

    Attributes:
        what: What is off, in a few words.
        breaks: Names of the checks that then must not hold.
        num_seeds: Seeds to run it with, the first of the system's.
    """

    what: str
    breaks: tuple[str, ...]
    num_seeds: int = 1


@dataclass(frozen=True)
class Curve:
    """A line of a chart, for what one number cannot say.

    Attributes:
        name: Of the line, in the legend.
        x_label: Quantity and unit along the chart; curves with equal labels share a chart.
        y_label: Quantity and unit upwards.
        points: (x, y), in the order they are joined.
    """

    name: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Trial:
    """One run of a system with one seed.

    Attributes:
        seed: Of everything random.
        is_ablated: Whether the essential part is to be off.
        folder: Empty, for files; gone after the run.
        say: Tells the user what is going on, a line at a time.
        curves: The run may append to it.
    """

    seed: int
    is_ablated: bool
    folder: Path
    say: Callable[[str], None]
    curves: list[Curve] = field(default_factory=list)


@dataclass(frozen=True)
class System:
    """A system of the year that is built.

    Attributes:
        slug: Its word on the command line, as in `index.toml`.
        claim: What its authors say it does, in one sentence of ours.
        published: Their headline figure.
        honesty: How the run here differs from theirs, and what it therefore does not show.
        parts: Modules of the platform that it composes, without `yearling.`:
            `training.methods.sft`.
        checks: Figures and bounds, the headline first.
        run: Gives the figures of one seed: all that `checks` names, and any others worth telling.
            An ablated run may leave out what the ablation does not break.
        ablation: What must break the checks.
        paper: The configuration that the authors used, as YAML takes it.
        seeds: At least three.
    """

    slug: str
    claim: str
    published: Published
    honesty: str
    parts: tuple[str, ...]
    checks: tuple[Check, ...]
    run: Callable[[Trial], Mapping[str, float]]
    ablation: Ablation
    paper: Mapping[str, Any]
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"{self.slug}: checks are named {names}; give each its own name.")
        unknown = sorted(set(self.ablation.breaks) - set(names))
        if unknown or not self.ablation.breaks:
            raise ValueError(
                f"{self.slug}: the ablation breaks {list(self.ablation.breaks)}, and the checks "
                f"are {names}; name at least one of them, and no other."
            )
        if len(set(self.seeds)) < MIN_SEEDS or self.ablation.num_seeds > len(self.seeds):
            raise ValueError(
                f"{self.slug}: seeds={self.seeds} with {self.ablation.num_seeds} for the "
                f"ablation; a spread needs at least {MIN_SEEDS} different ones."
            )


def entry_name(slug: str) -> str:
    """Give the stem of the file of a system.

    >>> entry_name("llama-2-long"), entry_name("4-bit-optimizers")
    ('llama_2_long', 'system_4_bit_optimizers')
    """
    stem = slug.replace("-", "_").replace(".", "_")
    return f"system_{stem}" if stem[0].isdigit() else stem


systems: Registry[System] = Registry("system", "yearling.systems.entries", "yearling.systems")
