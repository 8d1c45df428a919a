"""`yearling train`: quick flags, help for beginners, stopping and going on."""

import importlib.util
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from tests.models.converted_models import add_byte_level_tokenizer, llama_folder
from yearling.cli.train import train
from yearling.core.errors import ConfigError, DataError, ModelNotFoundError, UnsupportedError

app = typer.Typer()
app.command()(train)


@pytest.fixture(autouse=True)
def own_home(tmp_home: Path) -> None:
    """Lineage records go to a home of the test's own."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = llama_folder(
        tmp_path_factory.mktemp("base") / "tiny", hidden_size=32, intermediate_size=64
    )
    add_byte_level_tokenizer(made)
    return made


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [json.dumps({"prompt": f"fox {n}", "completion": " jumps"}) for n in range(12)]
    file.write_text("\n".join(lines) + "\n")
    return file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def quick(base: Path, rows: Path, output: Path, *more: str) -> Result:
    flags = ("--model", str(base), "--data", str(rows), "--output", str(output))
    return run(*flags, *more, "--set", "batch_tokens=64", "--set", "micro_batch_tokens=64")


def test_flags_alone_train_and_say_what_was_written(base: Path, rows: Path, tmp_path: Path) -> None:
    done = quick(base, rows, tmp_path / "run", "--set", "steps=3")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("trained 3 steps, last loss ")
    assert f"wrote {tmp_path / 'run' / 'model'}, lineage " in done.stdout
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()


def test_flags_go_before_the_file_and_set_before_both(
    base: Path, rows: Path, tmp_path: Path
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"model: {base}\ndata: elsewhere.jsonl\noutput: {tmp_path / 'a'}\nsteps: 9\n")
    done = run(
        *(str(file), "--data", str(rows), "--set", "steps=1"),
        *("--set", "batch_tokens=64", "--set", "micro_batch_tokens=64"),
    )
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("trained 1 steps")


def test_stopped_run_says_how_to_go_on_and_does(
    base: Path, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yearling.training.loop import Loop

    take_step = Loop._take_step

    def signalled(self: Any, batches: Any) -> None:
        take_step(self, batches)
        if self.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_take_step", signalled)
        stopped = quick(base, rows, tmp_path / "run", "--set", "steps=4")
    assert stopped.exit_code == 130
    assert "stopped by SIGINT after step 2; saved in" in stopped.stderr
    assert "--resume" in stopped.stderr
    done = quick(base, rows, tmp_path / "run", "--set", "steps=4", "--resume")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("went on from step 2\ntrained 4 steps")


def test_what_a_beginner_gets_wrong_is_told(base: Path, rows: Path, tmp_path: Path) -> None:
    def problem(*arguments: str, kind: type[Exception]) -> str:
        done = run(*arguments)
        assert isinstance(done.exception, kind), done.output
        return str(done.exception)

    assert "no configuration file at sft.yml" in problem("sft.yml", kind=ConfigError)
    said = problem(kind=ConfigError)
    assert "model is missing: set it in a file or with --set model=VALUE." in said
    common = ("--data", str(rows), "--output", str(tmp_path / "run"))
    said = problem("--model", "./nowhere", *common, kind=ModelNotFoundError)
    assert "nowhere" in said
    common = ("--model", str(base), "--output", str(tmp_path / "run"))
    missing = str(tmp_path / "missing.jsonl")
    assert "missing.jsonl" in problem(*common, "--data", missing, kind=DataError)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    assert "hold no row at all" in problem(*common, "--data", str(empty), kind=DataError)
    assert not (tmp_path / "run").exists()


def test_small_install_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name in ("torch", "peft") else find_spec(name, *rest),
    )
    done = run("sft.yaml")
    assert isinstance(done.exception, UnsupportedError)
    assert "training needs torch and peft" in str(done.exception)
    assert "pip install 'yearling[train]'" in str(done.exception)
