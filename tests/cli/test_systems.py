"""`yearling systems` and `yearling run` as a user runs them."""

import json
from pathlib import Path

import pytest
import typer
from rich.cells import cell_len
from typer.testing import CliRunner

from yearling.cli import systems as commands
from yearling.core.errors import CatalogueError
from yearling.systems import catalogue, result
from yearling.systems.catalogue import Listing, State
from yearling.systems.index import find_row
from yearling.systems.system import Ablation, Check, Published, System

app = typer.Typer()
app.command("systems")(commands.systems)
app.command("run")(commands.run)
FIELDS = [
    "slug", "name", "name_zh", "month", "kind", "area", "state",
    "version", "claim", "published", "measured", "unit", "waits_for",
]  # fmt: skip


def run(*arguments: str):
    return CliRunner().invoke(app, arguments)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> System:
    """A system that is measured at once, in the place of `mamba`; results go to `tmp_path`."""
    system = System(
        slug="mamba",
        claim="It copies.",
        published=Published("99.8 %", "Somebody 2023"),
        honesty="Only a toy.",
        parts=("core.errors",),
        checks=(Check("copied", "%", "Share of tokens copied.", at_least=97.0),),
        run=lambda trial: {"copied": 40.0 if trial.is_ablated else 98.0 - 10 * (trial.seed > 2)},
        ablation=Ablation("selection off", breaks=("copied",)),
        paper={"layers": 24},
    )
    monkeypatch.setattr(
        catalogue, "find_listing", lambda slug: Listing(find_row(slug), system, None)
    )
    monkeypatch.setattr(result.write_result, "__defaults__", (tmp_path,))
    return system


def test_json_is_150_objects_with_the_promised_fields() -> None:
    ended = run("systems", "--json")
    assert ended.exit_code == 0
    rows = json.loads(ended.stdout)
    assert len(rows) == 150
    assert all(list(row) == FIELDS for row in rows)
    assert {row["state"] for row in rows} <= set(State)


def test_json_of_an_area_holds_that_area_only() -> None:
    rows = json.loads(run("systems", "--area", "media", "--json").stdout)
    assert {row["area"] for row in rows} == {"media"}


def test_table_aligns_chinese_names() -> None:
    lines = run("systems", "--state", "missing").stdout.splitlines()
    column = lines[0].index("STATE") + 2  # the title 名称 takes four cells
    for line in lines[1:]:
        before, found, _ = line.partition("  missing")
        assert found, line
        assert cell_len(before) + 2 == column


def test_states_to_choose_from_are_those_there_are() -> None:
    assert [state.value for state in commands._State] == [state.value for state in State]


def test_near_miss_names_the_nearest() -> None:
    with pytest.raises(CatalogueError, match="Nearest: mamba"):
        CliRunner().invoke(app, ["run", "mambo"], catch_exceptions=False)


def test_system_that_is_not_built_says_what_it_waits_for() -> None:
    with pytest.raises(CatalogueError, match=r"bard is not built yet\. It waits for"):
        CliRunner().invoke(app, ["run", "bard"], catch_exceptions=False)


def test_run_prints_the_verdict_and_saves_when_asked(toy: System, tmp_path: Path) -> None:
    ended = run("run", "mamba")
    assert ended.exit_code == 0
    assert "| copied | ≥ 97 % | 98 |" in ended.stdout
    assert "Every check holds" in ended.stdout
    assert list(tmp_path.iterdir()) == []
    assert run("run", "mamba", "--save").exit_code == 0
    assert json.loads((tmp_path / "mamba.json").read_text())["seeds"] == [0, 1, 2]


def test_failed_check_is_exit_status_one(toy: System) -> None:
    ended = run("run", "mamba", "--seed", "3")
    assert ended.exit_code == 1
    assert "copied is 88 % and must be ≥ 97 %" in ended.stdout


def test_one_seed_cannot_be_saved(toy: System) -> None:
    ended = run("run", "mamba", "--seed", "0", "--save")
    assert ended.exit_code == 2
    assert "--save needs every seed" in ended.stderr


def test_check_that_cannot_fail_is_not_saved(toy: System, tmp_path: Path) -> None:
    object.__setattr__(toy, "run", lambda _: {"copied": 98.0})
    with pytest.raises(CatalogueError, match="the result is not saved: copied still keeps"):
        CliRunner().invoke(app, ["run", "mamba", "--save"], catch_exceptions=False)
    assert list(tmp_path.iterdir()) == []


def test_paper_scale_prints_the_configuration_of_the_authors(toy: System) -> None:
    ended = run("run", "mamba", "--scale", "paper")
    assert ended.stdout == "# mamba: as published in Somebody 2023\nlayers: 24\n"
