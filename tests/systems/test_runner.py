"""Running a system: every seed, then the ablation, and nothing that cannot fail."""

from dataclasses import replace

import pytest

from yearling.core.errors import CatalogueError
from yearling.systems.runner import run_system
from yearling.systems.system import Ablation, System, Trial


def test_run_measures_every_seed_and_the_ablation(toy: System) -> None:
    said: list[str] = []
    result = run_system(toy, say=said.append)
    assert result.figures["copied"] == pytest.approx((98.0, 98.1, 98.2))
    assert result.figures["told"] == (7.0, 7.0, 7.0)
    assert dict(result.ablated) == {"copied": (40.0,)}
    assert [curve.name for curve in result.curves] == ["ours", "ours (selection off)"]
    assert [line for line in said if not line.startswith(" ")] == [
        "seed 0",
        "seed 1",
        "seed 2",
        "seed 0, selection off",
    ]
    assert result.problems(toy) == []
    assert "core.errors" in result.sources


def test_ablation_that_breaks_nothing_is_a_check_that_cannot_fail(idle_toy: System) -> None:
    result = run_system(idle_toy)
    assert result.failed_checks(idle_toy) == []
    [problem] = result.idle_checks(idle_toy)
    assert problem == (
        "copied still keeps its bound (≥ 97 %) with selection off: a check that cannot fail"
    )


def test_ablation_runs_with_as_many_seeds_as_asked(toy: System) -> None:
    result = run_system(replace(toy, ablation=Ablation("off", ("copied",), num_seeds=2)))
    assert dict(result.ablated) == {"copied": (40.0, 40.0)}


def test_figure_below_its_bound_is_a_failed_check(toy: System) -> None:
    weak = replace(toy, run=lambda trial: {"copied": 50.0, "seconds_each": 4.0 - trial.seed})
    assert run_system(weak).failed_checks(weak) == [
        "copied is 50 % and must be ≥ 97 %",
        "seconds_each is 4 s and must be ≤ 3 s",
    ]


def test_figure_left_out_is_an_error(toy: System) -> None:
    with pytest.raises(CatalogueError, match=r"mamba gave no seconds_each \(seed 0\)"):
        run_system(replace(toy, run=lambda _: {"copied": 98.0}))


def test_figure_that_is_no_number_is_an_error_and_breaks_an_ablated_check(toy: System) -> None:
    def diverge(trial: Trial) -> dict[str, float]:
        return {"copied": float("nan") if trial.is_ablated else 98.0, "seconds_each": 1.0}

    diverging = replace(toy, run=diverge)
    result = run_system(diverging)
    assert result.ablated["copied"] == (None,)
    assert result.problems(diverging) == []
    with pytest.raises(CatalogueError, match=r"copied is nan \(seed 0\)"):
        run_system(replace(toy, run=lambda _: {"copied": float("nan"), "seconds_each": 1.0}))
