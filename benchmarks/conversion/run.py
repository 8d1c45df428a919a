"""`yearling bench conversion`: from settings to a report.

A file is converted to a folder and back; then each engine answers the same prompts with the
original and with what was written, one process after the other.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from benchmarks.conversion.comparison import Answers, Comparison, Report, compare_answers
from benchmarks.conversion.forms import Files, Trial, trials
from benchmarks.serving.engine_process import BenchmarkError, EngineCommand, EngineProcess
from benchmarks.serving.workload import english_text
from yearling.models.conversion_check import compare_models
from yearling.models.convert import convert

if TYPE_CHECKING:
    from yearling.models.conversion_check import FormatChange

__all__ = ["Settings", "compare_trials", "cut_prompts", "run"]

Progress = Callable[[str], None]

_SHORTEST_TOKENS, _LONGEST_TOKENS = 8, 104
_STEP = 37  # has no factor in common with the number of lengths, so that all of them occur


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        model: Store name or path of a GGUF file.
        prompts: How many prompts each engine answers.
        new_tokens: Tokens of every answer; the end of a text does not stop it.
    """

    model: str = "smollm2"
    prompts: int = 50
    new_tokens: int = 64


def run(settings: Settings, progress: Progress) -> Report:
    """Convert the model and compare every engine's answers.

    Raises:
        BenchmarkError: the model is no GGUF file or has no tokenizer, the peers' environment does
            not exist, or an engine fails.
        ModelError: the model cannot be converted.
    """
    from yearling.models.store import ensure, resolve

    started = perf_counter()
    ensure(settings.model)
    original = resolve(settings.model)
    if not original.is_file():
        raise BenchmarkError(f"{original} is a folder; this starts from a GGUF file.")
    prompts = cut_prompts(_tokens(original), settings.prompts)
    with tempfile.TemporaryDirectory(prefix="yearling-conversion-") as home:
        files = Files(original, Path(home) / "folder", Path(home) / "written.gguf")
        wanted = trials(files)
        changes = _convert(files, progress)
        comparisons, descriptions = compare_trials(wanted, prompts, settings.new_tokens, progress)
    lengths = [len(prompt) for prompt in prompts]
    return Report(
        model=original.name,
        changes=changes,
        comparisons=comparisons,
        new_tokens=settings.new_tokens,
        prompt_tokens=(min(lengths), max(lengths)),
        descriptions=descriptions,
        seconds=perf_counter() - started,
    )


def cut_prompts(tokens: Sequence[int], count: int) -> list[tuple[int, ...]]:
    """Cut prompts of mixed lengths out of a text, evenly spread over it.

    >>> prompts = cut_prompts(range(20_000), 50)
    >>> [len(prompt) for prompt in prompts[:5]], [prompt[0] for prompt in prompts[:3]]
    ([8, 45, 82, 22, 59], [0, 397, 795])
    """
    num_lengths = _LONGEST_TOKENS - _SHORTEST_TOKENS + 1
    last_start = len(tokens) - _LONGEST_TOKENS
    starts = [number * last_start // count for number in range(count)]
    lengths = [_SHORTEST_TOKENS + number * _STEP % num_lengths for number in range(count)]
    return [
        tuple(tokens[start : start + length]) for start, length in zip(starts, lengths, strict=True)
    ]


def compare_trials(
    wanted: Sequence[Trial],
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    progress: Progress,
) -> tuple[list[Comparison], list[str]]:
    """Let each engine answer with the original, then with what was written.

    Returns:
        The comparisons, and one line per engine with its configuration.

    Raises:
        BenchmarkError: an engine fails, or makes another number of tokens than asked.
    """
    comparisons, descriptions = [], []
    for trial in wanted:
        name = trial.before.name
        progress(f"{name}: original")
        before, description = _answers(trial.before, prompts, new_tokens)
        descriptions.append(f"{name}: {description}")
        for target, command in trial.after.items():
            progress(f"{name}: {target}")
            after, _ = _answers(command, prompts, new_tokens)
            comparisons.append(compare_answers(name, target, before, after))
    return comparisons, descriptions


def _answers(
    command: EngineCommand, prompts: Sequence[Sequence[int]], new_tokens: int
) -> tuple[Answers, str]:
    with EngineProcess(command) as engine:
        answer = engine.ask(
            {
                "command": "answer",
                "prompts": [list(prompt) for prompt in prompts],
                "new_tokens": new_tokens,
            }
        )
        answers: Answers = answer["answers"]
        if [len(part) for part in answers] != [new_tokens] * len(prompts):
            raise BenchmarkError(
                f"{engine.name} made answers of {sorted({len(part) for part in answers})} tokens "
                f"to {len(answers)} prompts; asked were {new_tokens} to each of {len(prompts)}."
            )
        return answers, engine.description


def _convert(files: Files, progress: Progress) -> dict[str, "tuple[FormatChange, ...]"]:
    progress("converting to a folder")
    convert(files.original, files.folder)
    progress("converting back")
    convert(files.folder, files.written)
    progress("comparing every number")
    return {
        "folder": compare_models(files.original, files.folder),
        "GGUF": compare_models(files.original, files.written),
    }


def _tokens(path: Path) -> list[int]:
    from contextlib import closing

    from yearling.models.checkpoint import open_checkpoint

    with closing(open_checkpoint(path)) as checkpoint:
        tokenizer = checkpoint.tokenizer()
        if tokenizer is None:
            raise BenchmarkError(f"{path} carries no tokenizer to cut prompts with.")
        return tokenizer.encode(english_text())
