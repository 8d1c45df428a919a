"""The run card: everything that decided a model, and the chain back to its base."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from yearling.core.errors import LineageError
from yearling.core.lineage import LineageLedger, LineageRecord, hash_file
from yearling.models.trained_template import hash_template, template_change
from yearling.training.config import TrainConfig
from yearling.training.run_card import (
    BaseModel,
    RunCard,
    explain,
    make_run_card,
    read_run_card,
    write_run_card,
)


@pytest.fixture
def base(tmp_home: Path, tmp_path: Path) -> Path:
    """A model that was pulled."""
    path = tmp_path / "base.gguf"
    path.write_bytes(b"weights")
    record = LineageRecord(
        step="pull",
        name="base",
        created="2023-07-18T00:00:00+00:00",
        version="1",
        outputs={path.name: hash_file(path)},
    )
    LineageLedger().write(record)
    return path


def _run(folder: Path, base: Path, **changes: object) -> RunCard:
    model = folder / "model"
    model.mkdir(parents=True, exist_ok=True)
    (model / "adapter_model.safetensors").write_bytes(b"adapter of " + folder.name.encode())
    values = {
        "method": "dpo",
        "adapter": "lora",
        "base": BaseModel(name="base", hashes={base.name: hash_file(base)}),
        "data": {"training": "d" * 64},
        "template_hash": "t" * 64,
        "configuration": {"model": "base", "method": {"name": "dpo", "beta": 0.1}},
        "seed": 7,
        "scores": {"loss": 0.5},
        **changes,
    }
    return write_run_card(folder, model, RunCard.model_validate(values))


def test_card_is_beside_run_and_model_and_reads_back(base: Path, tmp_path: Path) -> None:
    card = _run(tmp_path / "run", base)
    assert read_run_card(tmp_path / "run") == card == read_run_card(tmp_path / "run" / "model")
    assert {"python", "torch", "peft"} <= set(card.versions)


def test_card_gathers_what_decided_a_run(base: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(
        {"model": str(base), "output": str(tmp_path / "run"), "data": "rows.csv", "adapter": "lora"}
    )
    report = {"training": {"data_hash": "d" * 64, "kept": 3}}
    scores = {"loss": 0.25, "best_validation_loss": None}
    card = make_run_card(config, base, "t" * 64, report=report, scores=scores)
    assert (card.method, card.adapter, card.seed) == ("sft", "lora", 0)
    assert card.base.hashes == {base.name: hash_file(base)}
    assert card.data == {"training": "d" * 64}
    assert card.scores == {"loss": 0.25}
    assert TrainConfig.model_validate(card.configuration) == config


def test_front_matter_is_yaml_that_names_the_base(base: Path, tmp_path: Path) -> None:
    card = _run(tmp_path / "run", base)
    _, front, text = (tmp_path / "run" / "README.md").read_text("utf-8").split("---\n", 2)
    assert yaml.safe_load(front) == {
        "base_model": "base",
        "library_name": "peft",
        "tags": ["yearling", "dpo", "lora"],
    }
    for said in (card.record, "d" * 64, "t" * 64, "beta: 0.1", "seed 7", "| loss | 0.5000 |"):
        assert said in text


def test_chain_goes_from_the_run_to_its_base(base: Path, tmp_path: Path) -> None:
    _run(tmp_path / "run", base)
    steps = [record.step for record in explain(str(tmp_path / "run"))]
    assert steps == ["train", "pull"]
    (train, _) = explain(str(tmp_path / "run" / "model" / "adapter_model.safetensors"))
    assert train.data["training"] == "d" * 64
    assert train.data["template"] == "t" * 64
    assert explain(train.id[:12])[0] == train
    assert explain("base")[0].step == "pull"


def test_base_that_nobody_recorded_ends_the_chain(base: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(b"other weights")
    _run(tmp_path / "run", other)
    assert [record.step for record in explain(str(tmp_path / "run"))] == ["train"]


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"training": "e" * 64}},
        {"configuration": {"model": "base", "method": {"name": "dpo", "beta": 0.2}}},
        {"template_hash": "u" * 64},
    ],
    ids=["data", "configuration", "template"],
)
def test_every_cause_changes_the_record(
    base: Path, tmp_path: Path, changes: dict[str, object]
) -> None:
    first = LineageLedger().read(_run(tmp_path / "run", base).record)
    second = LineageLedger().read(_run(tmp_path / "run", base, **changes).record)
    same = second.model_copy(update={"created": first.created})
    assert same.id != first.id


def test_changed_record_is_refused(base: Path, tmp_path: Path) -> None:
    card = _run(tmp_path / "run", base)
    file = LineageLedger().folder / f"{card.record}.json"
    file.write_text(file.read_text("utf-8").replace("d" * 64, "0" * 64), "utf-8")
    with pytest.raises(LineageError, match="was changed"):
        explain(str(tmp_path / "run"))


@pytest.mark.parametrize(("method", "is_said"), [("dpo", True), ("pretrain", False)])
def test_card_names_the_template_of_conversations(
    base: Path, tmp_path: Path, method: str, is_said: bool
) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "chat_template.jinja").write_bytes(b"one\r\ntwo")
    card = _run(tmp_path / "run", base, method=method)
    assert card.chat_template == (hash_template("one\r\ntwo") if is_said else None)
    assert (template_change(model, "one\ntwo") is not None) == is_said
    assert template_change(model, "one\r\ntwo") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "nothing is known of 'nothing'"), (".", "no step in .* has written")],
)
def test_unknown_things_are_named(base: Path, tmp_path: Path, name: str, message: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(LineageError, match=message):
        explain(str(empty) if name == "." else name)


def test_folder_without_a_card_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(LineageError, match=r"has no run.json: .*\n.*record's id"):
        read_run_card(tmp_path)
    (tmp_path / "run.json").write_text("{}", "utf-8")
    with pytest.raises(LineageError, match="is not a run card"):
        read_run_card(tmp_path)


def test_command_prints_the_chain(base: Path, tmp_path: Path) -> None:
    import typer

    from yearling.cli.explain import explain as command

    card = _run(tmp_path / "run", base)
    app = typer.Typer()
    app.command()(command)
    shown = CliRunner().invoke(app, [str(tmp_path / "run")])
    assert shown.exit_code == 0
    assert [line[:5] for line in shown.output.splitlines() if line[:1] != " "] == ["train", "pull "]
    assert card.record in shown.output
    as_json = json.loads(CliRunner().invoke(app, [str(tmp_path / "run"), "--json"]).output)
    assert [record["step"] for record in as_json] == ["train", "pull"]
    assert as_json[0]["parents"] == [as_json[1]["id"]]
