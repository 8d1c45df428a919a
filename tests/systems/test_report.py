"""What the report tells: the claim, the published figure, the spread, the verdict."""

import pytest
import yaml

from yearling.systems.catalogue import Listing, list_systems
from yearling.systems.index import find_row
from yearling.systems.report import (
    chart,
    chart_id,
    index_table,
    page,
    paper_configuration,
    verdict,
)
from yearling.systems.runner import run_system
from yearling.systems.system import System


def test_verdict_tells_claim_published_figure_spread_and_ablation(toy: System) -> None:
    text = verdict(toy, run_system(toy))
    assert "**Claim.** It copies." in text
    assert "99.8 % of tokens (Somebody 2023, table 1)" in text
    assert "| copied | ≥ 97 % | 98.1 | 98 … 98.2 | 0.1 | 40 | holds |" in text
    assert "| seconds_each | ≤ 3 s (worst) | 2 | 2 … 2 | 0 | – | holds |" in text
    assert "| told | – | 7 | 7 … 7 | 0 | – | |" in text
    assert "Every check holds; with selection off, copied fails." in text


def test_verdict_of_one_seed_has_no_spread(toy: System) -> None:
    assert "| 98 | 98 … 98 | – | 40 | holds |" in verdict(toy, run_system(toy, seeds=(0,)))


def test_verdict_names_what_does_not_hold(idle_toy: System) -> None:
    text = verdict(idle_toy, run_system(idle_toy))
    assert "Every check holds" not in text
    assert "- copied still keeps its bound" in text


def test_page_says_where_it_was_measured(toy: System) -> None:
    listing = Listing(find_row(toy.slug), toy, run_system(toy))
    text = page(listing)
    assert "state: **verified**" in text
    assert "seeds 0, 1, 2" in text
    assert "![Curves of Mamba](mamba.svg)" in text
    assert "yearling run mamba" in text


def test_index_table_has_a_line_for_every_system() -> None:
    assert len(index_table(list_systems()).splitlines()) == 150 + 2


def test_paper_configuration_is_yaml_with_its_source(toy: System) -> None:
    text = paper_configuration(toy)
    assert text.startswith("# mamba: as published in Somebody 2023, table 1\n")
    assert yaml.safe_load(text) == {"layers": 24, "width": 768}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_chart_draws_every_curve_and_names_its_result(toy: System) -> None:
    pytest.importorskip("matplotlib")
    result = run_system(toy)
    picture = chart(result)
    assert all(curve.name in picture for curve in result.curves)
    assert chart_id(result) in picture
    assert chart(result) == picture
