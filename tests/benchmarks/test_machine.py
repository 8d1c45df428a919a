import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.serving.machine import BusyWatch, Machine, busy_load, measure_machine
from benchmarks.serving.neighbour import busy_neighbour


def test_busy_watch_notices_a_foreign_process() -> None:
    watch = BusyWatch()
    with busy_neighbour("unpinned"), watch.during("decode_1", os.getpid()):
        time.sleep(0.5)
    assert watch.shares[0][1] > 0.05
    (warning,) = watch.warnings()
    assert warning.startswith("in 1 of 1 runs others used the processor, most in decode_1 (")


def test_busy_watch_does_not_count_the_measured_process() -> None:
    program = "import sys\nsys.stdin.readline()\nfor i in range(10**10): pass"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as spinner:
        assert spinner.stdin is not None
        counted, ignored = BusyWatch(), BusyWatch()
        with counted.during("foreign", os.getpid()), ignored.during("measured", spinner.pid):
            spinner.stdin.write(b"\n")
            spinner.stdin.flush()
            time.sleep(0.6)
        spinner.kill()
    # Neighbours of the test are in both figures; the spinner is in one.
    assert counted.shares[0][1] - ignored.shares[0][1] > 0.05


def test_busy_load_speaks_up_above_half_a_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.7, 0.0, 0.0))
    assert "load average is 1.7" in str(busy_load())
    monkeypatch.setattr(os, "getloadavg", lambda: (0.1, 9.0, 9.0))
    assert busy_load() is None


def test_machine_without_figures_has_no_shares() -> None:
    machine = Machine("some processor", 2, None, None)
    assert machine.roofline_share(100.0, weight_bytes=10**8) is None
    assert machine.arithmetic_share(100.0, multiplies=10**8) is None


def test_machine_without_a_compiler_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "no C++ compiler" in measure_machine(tmp_path).note


def test_neighbour_pinned_to_the_first_core_stays_there() -> None:
    with busy_neighbour("pinned"):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        placements = [os.sched_getaffinity(int(child)) for child in children]
    assert {min(os.sched_getaffinity(0))} in placements
