import sys
from pathlib import Path

import pytest

from benchmarks import peers
from benchmarks.serving import run
from benchmarks.serving.engine_process import BenchmarkError
from benchmarks.serving.metrics import METRICS


def test_llama_cpp_runs_the_shipped_file_and_its_requantisation(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.touch()
    monkeypatch.setattr(peers, "_ENVIRONMENT", tmp_path)
    commands = {
        command.name: command
        for command in run.engine_commands(run.PEERS, Path("/models/m.Q4_1.gguf"))
    }
    assert list(commands) == [
        "yearling",
        "llama.cpp/Q4_1",
        "llama.cpp/Q4_1x32",
        "llama.cpp/Q4_0",
        "llama.cpp/Q4_0x32",
        "openvino",
        "transformers",
    ]
    assert commands["llama.cpp/Q4_1"].model == Path("/models/m.Q4_1.gguf")
    assert commands["llama.cpp/Q4_0"].model.name == "m.Q4_1.requantised.Q4_0.gguf"
    assert commands["openvino"].model == commands["yearling"].model
    assert commands["llama.cpp/Q4_1"].python == python


def test_the_forms_of_llama_cpp_give_every_metric_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "_ENVIRONMENT", Path(sys.prefix))
    commands = run.engine_commands(("llama.cpp",), Path("/models/m.Q4_1.gguf"))
    for metric in METRICS:
        givers = [command.name for command in commands if command.gives(metric)]
        assert len(givers) == 3, metric  # ours, and one form of either file


def test_an_unknown_peer_is_named() -> None:
    with pytest.raises(BenchmarkError, match=r"unknown peers vllm: there are llama\.cpp, openv"):
        run.engine_commands(("llama.cpp", "vllm"), Path("m.gguf"))


def test_missing_peers_name_the_command_that_makes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "_ENVIRONMENT", tmp_path / "nowhere")
    with pytest.raises(BenchmarkError, match="`make peers` makes it"):
        run.engine_commands(("openvino",), Path("m.gguf"))
    with pytest.raises(BenchmarkError, match="`make peers` makes it"):
        peers.make_peer_files(Path("m.gguf"))
    assert len(run.engine_commands((), Path("m.gguf"))) == 1
