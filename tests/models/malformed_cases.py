"""Loads files that nobody should trust, each in a child with 1 GiB of memory and 2 seconds.

One server process imports what a loader needs and forks for every file, so a case costs
milliseconds. It has a single thread, which is what makes forking safe.

    outcomes = load_isolated({"huge count": path}, "tests.models.malformed_cases:load_checkpoint")
    assert outcomes["huge count"].error == "ModelFormatError"
"""

import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path

_MEMORY_BYTES = 1 << 30
_SECONDS = 2.0
_ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes:
        error: Name of the exception's class; `killed` or `signal N` when there was none to
            catch; None when the file loaded.
        message: The exception's text.
        seconds: How long loading took.
    """

    error: str | None
    message: str
    seconds: float


def load_checkpoint(path: Path) -> None:
    """Open a model and read everything in it: the loader of most cases."""
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.weights import weights_of

    checkpoint = open_checkpoint(path)
    for weight in weights_of(checkpoint.spec):
        checkpoint.weight(weight)
    checkpoint.tokenizer()
    checkpoint.chat_template()


def load_isolated(paths: Mapping[str, Path], loader: str) -> dict[str, Outcome]:
    """Load every path in a child of its own.

    Args:
        paths: Files or folders by the name of their case.
        loader: `module:function`; the function takes a path.
    """
    request = json.dumps({"loader": loader, "paths": {k: str(v) for k, v in paths.items()}})
    source = os.pathsep.join([str(_ROOT / "src"), str(_ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.models.malformed_cases"],
        input=request,
        capture_output=True,
        text=True,
        cwd=_ROOT,
        env={**os.environ, "PYTHONPATH": source, "OPENBLAS_NUM_THREADS": "1"},
        timeout=5 + _SECONDS * len(paths),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name: Outcome(**fields) for name, fields in json.loads(done.stdout).items()}


def _serve() -> None:
    request = json.load(sys.stdin)
    module, _, function = request["loader"].partition(":")
    load = getattr(import_module(module), function)
    for heavy in ("folder_checkpoint", "gguf_checkpoint"):
        import_module(f"yearling.models.checkpoint.{heavy}")
    import_module("yearling.models.tokenizer")
    import_module("yearling.models.chat_template")
    import_module("tokenizers")
    outcomes = {name: asdict(_run(load, Path(path))) for name, path in request["paths"].items()}
    json.dump(outcomes, sys.stdout)


def _run(load: Callable[[Path], None], path: Path) -> Outcome:
    start, (reading, writing) = time.monotonic(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        _report(load, path, writing)
    os.close(writing)
    raw = b""
    while select.select([reading], [], [], max(0.0, start + _SECONDS - time.monotonic()))[0]:
        part = os.read(reading, 65_536)
        raw += part
        if not part:
            break
    else:
        os.kill(child, signal.SIGKILL)
    os.close(reading)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    if os.WIFSIGNALED(status):
        return Outcome(f"signal {os.WTERMSIG(status)}", f"after {seconds:.1f} s", seconds)
    error, message = json.loads(raw)
    return Outcome(error, message, seconds)


def _report(load: Callable[[Path], None], path: Path, writing: int) -> None:
    error, message = None, ""
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        load(path)
    except BaseException as caught:  # whatever it is, the test wants to see it
        error, message = type(caught).__name__, str(caught)
    os.write(writing, json.dumps([error, message[:4096]]).encode())
    os._exit(0)


if __name__ == "__main__":
    _serve()
