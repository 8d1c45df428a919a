"""`yearling show`: what a model is, and what it takes."""

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from tests.models.tiny_files import tiny_gguf
from yearling.cli.main import app
from yearling.core import memory
from yearling.core.errors import ConfigError, ModelNotFoundError


@pytest.fixture(autouse=True)
def free_memory(tmp_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 16 GB free, and nothing in the store."""
    monkeypatch.setattr(memory, "available_bytes", lambda: 16_000_000_000)


def show(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["show", *arguments])


def test_published_size_is_shown_without_weights() -> None:
    lines = show("llama-2-70b").stdout.splitlines()
    assert "name        llama-2-70b" in lines
    assert "layers      80" in lines
    assert "context     4096 tokens" in lines
    assert "published   68,976,648,192 parameters" in lines


def test_plan_says_what_fits_what_half_fits_and_what_does_not() -> None:
    shown = show("llama-2-7b", "--plan", "--sequences", "6")
    assert shown.exit_code == 0
    table = shown.stdout.partition("WEIGHTS")[2].splitlines()
    verdicts = {line.split()[0]: line for line in table[1:]}
    assert "CACHE OF 6 × 4,096 TOKENS" in table[0]
    assert "HERE (16.0 GB FREE)" in table[0]
    assert verdicts["float32"].endswith("no: 36.8 GB short")
    assert verdicts["int8"].endswith("fits with 2,784 tokens of cache each; 4.1 GB short of all")
    assert "4.2 GB" in verdicts["int4"]
    assert show("llama-2-7b", "--plan").stdout.rstrip().endswith("fits")


def test_plan_counts_parameters_by_part() -> None:
    lines = show("llama-2-7b", "--plan").stdout.splitlines()
    assert "parameters  6,738,415,616" in lines
    assert "  embedding   131,072,000" in lines
    assert "  a layer     202,383,360 × 32" in lines
    assert "tied to the embedding" in show("smollm2-135m", "--plan").stdout


def test_json_holds_the_numbers() -> None:
    shown = json.loads(show("llama-2-7b", "--plan", "--context", "100", "--json").stdout)
    assert shown["context"] == 4096
    assert shown["published"] == shown["plan"]["parameters"]["total"] == 6_738_415_616
    assert shown["plan"]["context"] == 100
    assert shown["plan"]["available_bytes"] == 16_000_000_000
    assert [fit["weights"] for fit in shown["plan"]["fits"]] == [
        "float32",
        "float16",
        "int8",
        "int4",
    ]
    assert "plan" not in json.loads(show("llama-2-7b", "--json").stdout)


def test_file_is_shown_and_planned(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(tiny_gguf())
    plain = json.loads(show(str(path), "--json").stdout)
    assert plain["size"] == path.stat().st_size
    assert len(plain["sha256"]) == 64
    planned = json.loads(show(str(path), "--plan", "--json").stdout)
    assert "sha256" not in planned  # hashing would read the weights
    assert planned["plan"]["parameters"]["layers"] == [9_280]


def test_file_wins_over_a_published_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "llama-2-70b").write_bytes(tiny_gguf())
    monkeypatch.chdir(tmp_path)
    assert "layers      1\n" in show("llama-2-70b").stdout


def test_unknown_name_says_what_is_near() -> None:
    error = show("llama-2-71b").exception
    assert isinstance(error, ModelNotFoundError)
    assert "Among published sizes, did you mean llama-2-7b or llama-2-70b" in str(error)
    error = show("smollm2").exception
    assert isinstance(error, ModelNotFoundError)
    assert str(error).startswith("smollm2 is not in the store; run `yearling pull smollm2`.")


def test_options_of_a_plan_want_the_plan() -> None:
    for options in (["--context", "8"], ["--sequences", "2"]):
        shown = show("llama-2-7b", *options)
        assert shown.exit_code == 2
        assert "belong to --plan" in shown.output
    assert show("llama-2-7b", "--plan", "--context", "0").exit_code == 2
    assert isinstance(show("llama-2-7b", "--plan", "--context", "5000").exception, ConfigError)
