"""Which engine answers with which files: each reads what it reads before, and what was written."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers import peer_python
from benchmarks.serving.engine_process import EngineCommand

__all__ = ["Files", "Trial", "trials"]

_ENGINES = "benchmarks.conversion.engines"


@dataclass(frozen=True, slots=True)
class Files:
    """One model three times.

    Attributes:
        original: The GGUF file that was converted.
        folder: The Hugging Face folder written from it.
        written: The GGUF file written from the folder.
    """

    original: Path
    folder: Path
    written: Path


@dataclass(frozen=True, slots=True)
class Trial:
    """One engine in one configuration.

    Attributes:
        before: How to start it with the original file.
        after: How to start it with what was written, by the name that the report gives it.
    """

    before: EngineCommand
    after: Mapping[str, EngineCommand]


def trials(files: Files) -> list[Trial]:
    """Say how to start every engine with each of its files.

    Ours reads the folder with float32 weights, and is compared with itself in float32: a folder
    does not hold the codes that its default arithmetic computes with.

    Raises:
        BenchmarkError: the peers' environment does not exist.
    """
    peer = peer_python()
    ours, folder, written = Path(sys.executable), {"folder": files.folder}, {"GGUF": files.written}
    return [
        _trial("yearling", ours, "yearling", files.original, written),
        _trial(
            "yearling float32", ours, "yearling", files.original, folder, options={"is_float32": 1}
        ),
        _trial("llama.cpp", peer, "llama_cpp", files.original, written),
        _trial("transformers", peer, "transformers", files.original, folder | written),
    ]


def _trial(
    name: str,
    python: Path,
    module: str,
    original: Path,
    after: Mapping[str, Path],
    *,
    options: Mapping[str, int] | None = None,
) -> Trial:
    def command(model: Path) -> EngineCommand:
        return EngineCommand(name, python, f"{_ENGINES}.{module}", model, options or {})

    return Trial(command(original), {label: command(model) for label, model in after.items()})
