"""The list of the year: 150 rows, true states, and committed results that still hold."""

from dataclasses import replace
from pathlib import Path

import pytest

from yearling.core.errors import CatalogueError
from yearling.systems import catalogue
from yearling.systems.catalogue import Listing, State, find_listing, list_systems
from yearling.systems.index import find_row, read_index
from yearling.systems.report import chart_id
from yearling.systems.result import RESULTS, read_result, write_result
from yearling.systems.runner import run_system
from yearling.systems.system import System, entry_name, systems

FIELDS = [
    "slug", "name", "name_zh", "month", "kind", "area", "state",
    "version", "claim", "published", "measured", "unit", "waits_for",
]  # fmt: skip
AREAS = {
    "agents", "apps", "compression", "data", "evaluation", "media", "models", "platform",
    "products", "science", "serving", "training",
}  # fmt: skip
BUDGET_SECONDS = 360
QUICK_SECONDS = 60


def built() -> list[Listing]:
    return [listing for listing in list_systems() if listing.system is not None]


each_built = pytest.mark.parametrize("listing", built(), ids=lambda listing: listing.row.slug)


def test_index_holds_the_150_systems_of_the_year() -> None:
    rows = read_index()
    assert len({row.slug for row in rows}) == len(rows) == 150
    assert {row.area for row in rows} == AREAS
    assert {row.month for row in rows} == {"all", *range(1, 13)}
    assert all(row.claim.endswith(".") and row.name and row.name_zh and row.kind for row in rows)
    assert all(row.waits_for for row in rows)
    assert any(not row.name_zh.isascii() for row in rows)


def test_every_file_is_a_system_of_the_index() -> None:
    assert set(systems.names()) <= {entry_name(row.slug) for row in read_index()}


def test_objects_have_exactly_the_promised_fields() -> None:
    for listing in list_systems():
        listed = listing.as_json()
        assert list(listed) == FIELDS
        assert (listed["state"] == "missing") == bool(listed["waits_for"])


def test_near_miss_names_the_nearest() -> None:
    with pytest.raises(CatalogueError, match=r"no system is called 'mambo'\. Nearest: mamba"):
        find_row("mambo")


def test_area_and_state_select() -> None:
    assert {listing.row.area for listing in list_systems(area="media")} == {"media"}
    with pytest.raises(CatalogueError, match=r"no system is in the area 'medja'\. Areas: agents"):
        list_systems(area="medja")
    missing = list_systems(state=State.MISSING)
    assert len(missing) == 150 - len(built())


@pytest.fixture
def listed_toy(toy: System, tmp_path: Path) -> Listing:
    """The toy, measured, as the list shows it."""
    write_result(run_system(toy), tmp_path)
    return Listing(find_row(toy.slug), toy, read_result(toy.slug, tmp_path))


def test_measured_system_is_verified(listed_toy: Listing) -> None:
    assert listed_toy.state is State.VERIFIED
    assert listed_toy.as_json()["measured"] == 98.1
    assert listed_toy.as_json()["published"] == "99.8 % of tokens (Somebody 2023, table 1)"


def test_system_is_stale_when_something_it_imports_has_changed(
    listed_toy: Listing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "sources_of", lambda _: {"core": "0", "core.errors": "1"})
    assert listed_toy.state is State.STALE
    assert "core.errors" in listed_toy.changed


def test_system_only_runs_without_a_result_that_holds(
    listed_toy: Listing, toy: System, idle_toy: System
) -> None:
    stricter = replace(toy.checks[0], at_least=99.0)
    for system, result in (
        (toy, None),
        (toy, run_system(toy, seeds=(0,))),
        (idle_toy, run_system(idle_toy)),
        (replace(toy, checks=(stricter, toy.checks[1])), listed_toy.result),
        (replace(toy, checks=(replace(stricter, name="new"), *toy.checks)), listed_toy.result),
    ):
        assert Listing(find_row(toy.slug), system, result).state is State.RUNS


def test_file_that_is_no_result_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mamba.json").write_text("{}")
    with pytest.raises(CatalogueError, match=r"mamba\.json is not a result"):
        read_result("mamba", tmp_path)


def test_every_result_belongs_to_a_system() -> None:
    assert {file.stem for file in RESULTS.glob("*.json")} <= {one.row.slug for one in built()}


@each_built
def test_built_system_says_what_it_is_under_its_own_name(listing: Listing) -> None:
    assert listing.system is not None
    assert listing.system.slug == listing.row.slug
    assert listing.system.claim.endswith(".")
    assert listing.system.honesty.endswith(".")
    assert listing.system.paper


@each_built
def test_committed_result_holds_and_keeps_the_budget(listing: Listing) -> None:
    if listing.result is None:
        pytest.skip("nothing has been measured yet")
    assert listing.result.idle_checks(listing.system) == []
    spent = sum(listing.result.seconds) + listing.result.ablation_seconds
    assert spent <= BUDGET_SECONDS


@each_built
def test_chart_in_the_docs_is_of_the_committed_result(listing: Listing) -> None:
    if listing.result is None or not listing.result.curves:
        pytest.skip("no curves")
    file = Path(__file__).parents[2] / "docs" / "systems" / f"{listing.row.slug}.svg"
    assert chart_id(listing.result) in file.read_text("utf-8"), "run tools/write_docs.py"


@pytest.mark.slow
@pytest.mark.timeout(4 * QUICK_SECONDS)
@pytest.mark.usefixtures("one_thread")  # two would wait for each other beside other tests
@each_built
def test_quick_system_holds_again_with_one_seed(listing: Listing) -> None:
    """A rerun of what takes a minute; a machine under load may miss figures of speed."""
    result, system = listing.result, listing.system
    if result is None or system is None or listing.state is State.RUNS:
        pytest.skip("no result that holds")
    if result.seconds[0] + result.ablation_seconds > QUICK_SECONDS:
        pytest.skip("takes longer than a minute")
    if "systems.tiny_bases" in result.sources:
        pytest.skip("begins from a base that may have to be trained first, for minutes")
    assert run_system(system, seeds=system.seeds[:1]).problems(system) == []


def test_find_listing_gives_one_row() -> None:
    assert find_listing("bard").state is State.MISSING
