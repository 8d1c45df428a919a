"""`yearling bench harness`: from settings to a report."""

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.harness.report import EXACT, OWN, SERVED, Report, Scores
from benchmarks.harness.tasks import write_tasks
from benchmarks.peers import peer_python
from benchmarks.serving.engine_process import BenchmarkError

__all__ = ["Settings", "run"]

Progress = Callable[[str], None]

_NAME = "model"
_START_SECONDS = 120
_VERSIONS = """
from importlib.metadata import version
print(", ".join(f"{name} {version(name)}" for name in ("lm_eval", "transformers", "torch")))
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        model: Store name or path of a GGUF file.
        limit: Questions of each task; None asks all.
    """

    model: str = "smollm2"
    limit: int | None = None


def run(settings: Settings, progress: Progress) -> Report:
    """Score the model in three ways.

    Raises:
        BenchmarkError: the peers' environment does not exist, the server does not start, or the
            harness fails.
    """
    from yearling.models.convert import convert
    from yearling.models.store import ensure, resolve

    ensure(settings.model)
    path = resolve(settings.model)
    with tempfile.TemporaryDirectory(prefix="yearling-harness-") as home:
        folder = Path(home) / "folder"
        progress("converting to a folder")
        convert(path, folder)
        tasks = write_tasks(Path(home) / "tasks")
        harness = _Harness(Path(home), tasks, settings.limit)
        progress(f"{OWN}: {', '.join(tasks)}")
        scores = {OWN: harness.score("hf", {"pretrained": folder, "dtype": "float32"})}
        for name, weights in ((EXACT, "float32"), (SERVED, None)):
            progress(name)
            with _server(path, weights) as url:
                arguments = {
                    "model": _NAME,
                    "base_url": f"{url}/v1/completions",
                    "num_concurrent": 8,
                    "tokenizer": folder,
                    "tokenizer_backend": "huggingface",
                }
                scores[name] = harness.score("local-completions", arguments)
        return Report(path.name, scores, harness.versions())


class _Harness:
    """The harness's own command line, in the peers' environment."""

    def __init__(self, home: Path, tasks: Sequence[str], limit: int | None) -> None:
        self._home = home
        self._tasks = tasks
        self._limit = [] if limit is None else ["--limit", str(limit)]
        self._python = peer_python()

    def score(self, model: str, arguments: Mapping[str, object]) -> Scores:
        """Let it score a model.

        Raises:
            BenchmarkError: it fails.
        """
        out = Path(tempfile.mkdtemp(dir=self._home))
        command = [self._python, "-m", "lm_eval", "--model", model, "--model_args"]
        command += [",".join(f"{name}={value}" for name, value in arguments.items())]
        command += ["--tasks", ",".join(self._tasks), "--include_path", self._home / "tasks"]
        command += ["--output_path", out, "--log_samples", *self._limit]
        command += ["--device", "cpu", "--batch_size", "8"] if model == "hf" else []
        offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(self._home / "cache")}
        start = perf_counter()
        ended = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=self._home,
            env={**os.environ, **offline},
        )
        if ended.returncode != 0:
            raise BenchmarkError(f"the harness failed with {model}:\n{ended.stderr[-3000:]}")
        return _read(out, self._tasks, perf_counter() - start)

    def versions(self) -> str:
        """Of the harness and what it stands on."""
        told = subprocess.run(
            [self._python, "-c", _VERSIONS], check=True, capture_output=True, text=True
        )
        return told.stdout.strip()


def _read(out: Path, tasks: Sequence[str], seconds: float) -> Scores:
    """Choices as the harness logged them: the likeliest of a question's answers."""
    choices, is_right = {}, {}
    for task in tasks:
        (file,) = out.glob(f"**/samples_{task}_*.jsonl")
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        rows.sort(key=lambda row: row["doc_id"])
        scored = [[float(answer[0]) for answer in row["filtered_resps"]] for row in rows]
        choices[task] = [values.index(max(values)) for values in scored]
        is_right[task] = [row["acc"] == 1.0 for row in rows]
    return Scores(choices, is_right, seconds)


@contextmanager
def _server(model: Path, weights: str | None) -> Iterator[str]:
    """`yearling serve` on a free port, and its address."""
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    command += ["--model", str(model), "--served-model-name", _NAME]
    command += [] if weights is None else ["--weights", weights]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        guard = threading.Timer(_START_SECONDS, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            ready = re.search(r"http://\S+", process.stdout.readline())
            guard.cancel()
            if ready is None:
                raise BenchmarkError(f"`{' '.join(command)}` did not start; its errors are above.")
            yield ready[0]
        finally:
            guard.cancel()
            process.kill()
