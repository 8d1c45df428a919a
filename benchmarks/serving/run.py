"""`yearling bench serving`: from settings to a report."""

import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers import PEER_FILES, make_peer_files, peer_python
from benchmarks.serving.engine_process import BenchmarkError, EngineCommand, EngineProcess
from benchmarks.serving.machine import BusyWatch, busy_load, measure_machine
from benchmarks.serving.metrics import METRICS
from benchmarks.serving.neighbour import NeighbourFigures, measure_neighbour
from benchmarks.serving.prepare import float32_folder, requantised_file
from benchmarks.serving.report import OURS, Report
from benchmarks.serving.session import Progress, measure
from benchmarks.serving.workload import Workload, english_text
from yearling.models.weights import weights_of

if TYPE_CHECKING:
    from yearling.models.checkpoint import Checkpoint

__all__ = ["PEERS", "Settings", "engine_commands", "run"]

PEERS = ("llama.cpp", "openvino", "transformers")

_ROOT = Path(__file__).resolve().parents[2]
_ENGINES = "benchmarks.serving.engines"


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Attributes:
        model: Store name or GGUF path.
        peers: Names out of `PEERS`.
        repeats: Rounds; medians need at least 5.
        new_tokens: Tokens each stream of a decode phase makes.
        has_neighbour: Also measure one stream beside a busy process.
    """

    model: str = "smollm2"
    peers: tuple[str, ...] = PEERS
    repeats: int = 5
    new_tokens: int = 128
    has_neighbour: bool = False


def run(settings: Settings, progress: Progress) -> Report:
    """Measure everything the settings ask for.

    Raises:
        BenchmarkError: a peer is unknown or not installed, or an engine fails.
    """
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.store import resolve

    path = resolve(settings.model)
    commands = engine_commands(settings.peers, path)
    if {"llama.cpp", "transformers"} & set(settings.peers):
        progress("preparing the peers' files")
        make_peer_files(path)
    checkpoint = open_checkpoint(path)
    workload = Workload(_tokens(checkpoint), settings.new_tokens)
    watch, load_warning = BusyWatch(), busy_load()
    progress("measuring the machine")
    machine = measure_machine(_ROOT / "build" / "bench")
    session = measure(commands, workload, repeats=settings.repeats, watch=watch, progress=progress)
    weight_bytes, multiplies = _work_per_token(checkpoint)
    return Report(
        summaries=session.summaries,
        descriptions=session.descriptions,
        machine=machine,
        weight_bytes=weight_bytes,
        multiplies=multiplies,
        warnings=[*([load_warning] if load_warning else []), *watch.warnings()],
        neighbour=_neighbour(commands, workload, settings, progress),
    )


def engine_commands(peers: tuple[str, ...], model: Path) -> list[EngineCommand]:
    """Say how to start ours and each peer; llama.cpp runs in two forms.

    Raises:
        BenchmarkError: a peer is unknown, or the peers' environment does not exist.
    """
    if unknown := [peer for peer in peers if peer not in PEERS]:
        raise BenchmarkError(f"unknown peers {', '.join(unknown)}: there are {', '.join(PEERS)}.")
    ours = EngineCommand(OURS, Path(sys.executable), f"{_ENGINES}.yearling", model)
    if not peers:
        return [ours]
    python = peer_python()
    commands = {
        "llama.cpp": [
            *_llama_cpp("Q4_1", python, model),
            *_llama_cpp("Q4_0", python, requantised_file(model, PEER_FILES)),
        ],
        "openvino": [EngineCommand("openvino", python, f"{_ENGINES}.openvino", model)],
        "transformers": [
            EngineCommand(
                "transformers",
                python,
                f"{_ENGINES}.transformers",
                float32_folder(model, PEER_FILES),
            )
        ],
    }
    return [ours, *(command for peer in peers for command in commands[peer])]


def _llama_cpp(form: str, python: Path, file: Path) -> list[EngineCommand]:
    """One slot for what one stream does, 32 slots for many; see `engines/llama_cpp.py`."""
    module = f"{_ENGINES}.llama_cpp"
    many = frozenset({"decode_8", "decode_32", "peak_rss_mb"})
    return [
        EngineCommand(
            f"llama.cpp/{form}",
            python,
            module,
            file,
            {"slots": 1, "slot_tokens": 2048},
            frozenset(METRICS) - many,
        ),
        EngineCommand(
            f"llama.cpp/{form}x32",
            python,
            module,
            file,
            {"slots": 32, "slot_tokens": 256},
            many,
        ),
    ]


def _neighbour(
    commands: list[EngineCommand], workload: Workload, settings: Settings, progress: Progress
) -> dict[str, NeighbourFigures]:
    if not settings.has_neighbour:
        return {}
    wanted = [
        command
        for command in commands
        if command.name.startswith((OURS, "llama.cpp")) and command.gives("decode_1")
    ]
    with ExitStack() as stack:
        engines = [stack.enter_context(EngineProcess(command)) for command in wanted]
        return dict(
            measure_neighbour(engines, workload, repeats=settings.repeats, progress=progress)
        )


def _tokens(checkpoint: "Checkpoint") -> list[int]:
    tokenizer = checkpoint.tokenizer()
    if tokenizer is None:
        raise BenchmarkError(f"{checkpoint.path} carries no tokenizer to cut prompts with.")
    return tokenizer.encode(english_text())


def _work_per_token(checkpoint: "Checkpoint") -> tuple[int, int]:
    """Bytes one decoded token reads, and weights one prompt token is multiplied by.

    The embedding counts as read when it also is the head; a lookup reads one row.
    """
    weights = list(weights_of(checkpoint.spec))
    is_tied = not any(weight.role == "head" for weight in weights)
    weight_bytes = multiplies = 0
    for weight in weights:
        tensor = checkpoint.weight(weight)
        if weight.role != "embedding" or is_tied:
            weight_bytes += tensor.data.nbytes
        if len(tensor.shape) == 2 and weight.role not in ("embedding", "head"):
            multiplies += tensor.shape[0] * tensor.shape[1]
    return weight_bytes, multiplies
