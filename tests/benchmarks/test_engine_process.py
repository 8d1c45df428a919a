import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.serving.engine_process import BenchmarkError, EngineCommand, EngineProcess
from benchmarks.serving.workload import Phase

PHASE = Phase("decode_8", ((1, 2),) * 8, new_tokens=4)
STREAMED = Phase("ttft", ((1, 2),), new_tokens=4, is_streamed=True, earlier=(1, 3))


def fake(model: str, name: str = "fake") -> EngineCommand:
    module = "tests.benchmarks.fake_engine"
    return EngineCommand(name, Path(sys.executable), module, Path("/models") / model)


def test_engine_answers_although_a_library_prints_to_stdout() -> None:
    with EngineProcess(fake("slow-0.01")) as engine:
        assert engine.description == "fake slow-0.01"
        assert engine.load_seconds >= 0.01
        timing = engine.run(PHASE)
    assert timing.new_tokens == 32
    assert timing.seconds >= 0.01
    assert timing.first_token_seconds is None
    assert timing.peak_rss_mb > 1


def test_engine_reports_the_first_token_of_a_stream() -> None:
    with EngineProcess(fake("slow-0.05")) as engine:
        timing = engine.run(STREAMED)
    assert timing.first_token_seconds is not None
    assert timing.first_token_seconds < 0.05 <= timing.seconds


def test_engine_that_cannot_load_says_why() -> None:
    with pytest.raises(BenchmarkError, match="fake failed at load: ValueError: this model is brok"):
        EngineProcess(fake("broken"))


def test_engine_that_dies_leaves_its_last_words() -> None:
    with EngineProcess(fake("dies")) as engine, pytest.raises(BenchmarkError) as failure:
        engine.run(PHASE)
    assert "the last words" in str(failure.value)
    assert "fake ended at generate (exit code 3)" in str(failure.value)


def test_engine_that_stays_silent_is_ended() -> None:
    with (
        EngineProcess(fake("silent"), answer_seconds=2.0) as engine,
        pytest.raises(BenchmarkError, match="fake was silent for 2 s at generate"),
    ):
        engine.run(PHASE)


def test_closing_leaves_no_process() -> None:
    engine = EngineProcess(fake("slow-0"))
    engine.close()
    assert not Path(f"/proc/{engine.pid}").exists()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_engine_does_not_outlive_a_killed_benchmark() -> None:
    program = """
from tests.benchmarks.test_engine_process import PHASE, EngineProcess, fake
with EngineProcess(fake("silent")) as engine:
    print(engine.pid, flush=True)
    engine.run(PHASE)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
    ) as benchmark:
        assert benchmark.stdout is not None
        pid = int(benchmark.stdout.readline())
        assert runs(pid)
        benchmark.kill()
    deadline = time.monotonic() + 20
    while runs(pid):
        assert time.monotonic() < deadline, "the engine is still there"
        time.sleep(0.05)
