"""The environment in which every benchmark's peers live, and the files made for them."""

import subprocess
from pathlib import Path

from benchmarks.serving.engine_process import BenchmarkError

__all__ = ["PEER_FILES", "make_peer_files", "peer_python"]

_ROOT = Path(__file__).resolve().parents[1]
_ENVIRONMENT = _ROOT / ".venv-bench"

PEER_FILES = _ENVIRONMENT / "models"
"""Where the peers' forms of a model are kept."""


def peer_python() -> Path:
    """Give the interpreter that has the peers.

    Raises:
        BenchmarkError: their environment does not exist.
    """
    python = _ENVIRONMENT / "bin" / "python"
    if not python.exists():
        raise BenchmarkError(
            f"the peers' environment {_ENVIRONMENT} does not exist.\n"
            "  `make peers` makes it; `--peers none`, where there is such, measures ours alone."
        )
    return python


def make_peer_files(model: Path) -> None:
    """Write the forms of a GGUF file that peers read, where they do not exist yet.

    Raises:
        BenchmarkError: the environment does not exist, or a form cannot be made.
    """
    made = subprocess.run(
        [peer_python(), "-m", "benchmarks.serving.prepare", str(model), str(PEER_FILES)],
        cwd=_ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise BenchmarkError(
            f"the peers' files cannot be made from {model}:\n{made.stderr[-2000:]}"
        )
