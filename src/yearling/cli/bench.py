"""`yearling bench`: speed against named peers, and answers that are right and stay the same.

What it measures with lives in the checkout's `benchmarks/`; a wheel does not carry it.
"""

import importlib
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

__all__ = ["app"]

app = typer.Typer(help="Measure Yearling against other engines.", no_args_is_help=True)

_Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures here.")]
_Model = Annotated[str, typer.Option(help="Store name or GGUF file.")]


class _Language(StrEnum):
    english = "english"
    chinese = "chinese"


@app.command()
def serving(
    peers: Annotated[
        str, typer.Option(help="Engines to compare with, separated by commas; or none.")
    ] = "llama.cpp,openvino,transformers",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians need at least 5.")] = 5,
    model: _Model = "smollm2",
    quick: Annotated[bool, typer.Option(help="One round of 16 tokens: tries the set-up.")] = False,
    busy: Annotated[bool, typer.Option(help="Also with a core kept busy by a process.")] = False,
    json_file: _Json = None,
) -> None:
    """Streams, prefill, time to first token, load time and memory, in alternating runs."""
    run = _benchmark("benchmarks.serving.run")
    settings = run.Settings(
        model=model,
        peers=() if peers == "none" else tuple(peers.split(",")),
        repeats=1 if quick else repeats,
        new_tokens=16 if quick else 128,
        has_neighbour=busy,
    )
    with _progress() as progress:
        report = run.run(settings, progress)
    _publish(report.as_text(), report.as_json(), json_file)


@app.command()
def growth(
    peers: Annotated[
        str, typer.Option(help="Engines to compare with, separated by commas; or none.")
    ] = "llama.cpp,openvino",
    repeats: Annotated[int, typer.Option(min=1, help="Rounds whose medians are told.")] = 3,
    model: _Model = "smollm2",
    chart: Annotated[Path | None, typer.Option(help="Also draw it, as .svg or .png.")] = None,
    json_file: _Json = None,
) -> None:
    """Speed against the context, the streams, and the size of the model."""
    run = _benchmark("benchmarks.serving.growth")
    settings = run.GrowthSettings(
        model=model, peers=() if peers == "none" else tuple(peers.split(",")), repeats=repeats
    )
    with _progress() as progress:
        report = run.run_growth(settings, progress)
    if chart is not None:
        report.draw(chart)
    _publish(report.as_text(), report.as_json(), json_file)


@app.command()
def options(
    repeats: Annotated[int, typer.Option(min=1, help="Calls of each kind.")] = 7,
    model: _Model = "smollm2",
    json_file: _Json = None,
) -> None:
    """What adapters, masks and guesses cost, or bring: shares of the speed without them."""
    run = _benchmark("benchmarks.serving.options")
    with _progress() as progress:
        report = run.run_options(model, repeats, progress)
    _publish(report.as_text(), report.as_json(), json_file)


@app.command()
def correctness(
    tokens: Annotated[int, typer.Option(min=64, help="Tokens of text scored.")] = 2000,
    model: _Model = "smollm2",
    language: Annotated[_Language, typer.Option(help="Of the text.")] = _Language.english,
    json_file: _Json = None,
) -> None:
    """Perplexity and greedy tokens against transformers in fp32, and answers in company."""
    correctness = _benchmark("benchmarks.serving.correctness")
    with _progress() as progress:
        report = correctness.run(model, tokens, progress, language.value)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


@app.command()
def embeddings(
    texts: Annotated[int, typer.Option(min=1, help="Texts embedded in one call.")] = 200,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds; medians need at least 5.")] = 5,
    model: Annotated[str, typer.Option(help="Store name or folder of an encoder.")] = "minilm",
    json_file: _Json = None,
) -> None:
    """Sentence vectors against sentence-transformers: the same ones, and at its speed or more."""
    run = _benchmark("benchmarks.embeddings.run")
    with _progress() as progress:
        report = run.run(run.Settings(model, texts, repeats), progress)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


@app.command()
def endurance(
    tokens: Annotated[int, typer.Option(min=20_480, help="Tokens of the prompt.")] = 1_000_000,
    json_file: _Json = None,
) -> None:
    """A million tokens through a state space and a window: as fast at the end, and no larger."""
    run = _benchmark("benchmarks.endurance.run")
    with _progress() as progress:
        report = run.run(run.Settings(tokens), progress)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


@app.command()
def training(
    peers: Annotated[str, typer.Option(help="trl, or none.")] = "trl",
    repeats: Annotated[int, typer.Option(min=1, help="Runs in turn behind the sweep.")] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps timed in each run.")] = 2,
    loss_steps: Annotated[
        int, typer.Option(min=0, help="Steps over which losses are compared; 0 leaves it out.")
    ] = 50,
    model: _Model = "smollm2",
    json_file: _Json = None,
) -> None:
    """LoRA fine-tuning against TRL at its best setting: speed, memory, and the same loss."""
    run = _benchmark("benchmarks.training.run")
    settings = run.Settings(
        model=model,
        peers=() if peers == "none" else tuple(peers.split(",")),
        steps=steps,
        repeats=repeats,
        loss_steps=loss_steps,
    )
    with _progress() as progress:
        report = run.run(settings, progress)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


@app.command()
def conversion(
    model: _Model = "smollm2",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts that each engine answers.")] = 50,
    tokens: Annotated[int, typer.Option(min=1, help="Greedy tokens of each answer.")] = 64,
    json_file: _Json = None,
) -> None:
    """A GGUF file to a folder and back: the same answers from us, llama.cpp and transformers."""
    run = _benchmark("benchmarks.conversion.run")
    with _progress() as progress:
        report = run.run(run.Settings(model, prompts, tokens), progress)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


@app.command()
def harness(
    model: _Model = "smollm2",
    limit: Annotated[int | None, typer.Option(min=1, help="Questions of each task. [all]")] = None,
    json_file: _Json = None,
) -> None:
    """Scores of EleutherAI's lm-eval: through our server, and in its own model."""
    run = _benchmark("benchmarks.harness.run")
    with _progress() as progress:
        report = run.run(run.Settings(model, limit), progress)
    _publish(report.as_text(), report.as_json(), json_file)
    if not report.has_passed:
        raise typer.Exit(1)


def _benchmark(name: str) -> ModuleType:
    """Import a module of the checkout this installation runs from.

    Raises:
        ConfigError: this installation has no checkout.
    """
    from yearling.core.errors import ConfigError

    checkout = Path(__file__).resolve().parents[3]
    if not (checkout / "benchmarks" / "serving").is_dir():
        raise ConfigError(
            f"there are no benchmarks in {checkout}: they are part of the source, not of the "
            "wheel.\n  Run `make bench` in a checkout."
        )
    sys.path.insert(0, str(checkout))
    return importlib.import_module(name)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Give a function that says on stderr what runs now: one line that changes, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: print(text, file=sys.stderr, flush=True)
        return
    from rich.console import Console

    with Console(stderr=True).status("starting") as status:
        yield status.update


def _publish(text: str, figures: dict[str, Any], json_file: Path | None) -> None:
    typer.echo(text)
    if json_file is not None:
        json_file.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
