"""What the machine can do, and whether somebody else is using it."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["BusyWatch", "Machine", "busy_load", "measure_machine"]

_TICKS = os.sysconf("SC_CLK_TCK")
_FOREIGN_SHARE_LIMIT = 0.05  # of one core
_SHORTEST_WATCH_SECONDS = 0.2
_PROBE_SOURCE = Path(__file__).with_name("probe.cpp")


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine's measured limits.

    Attributes:
        processor: Name the kernel gives.
        cores: Processors this process may run on.
        bandwidth_gb_per_s: Streaming read by one thread per core; None when not measured.
        int8_gops: 8-bit multiply and add counted as two operations, all cores, in 10^9 per
            second; None when the probe knows no instructions for this processor.
        note: Why a figure is missing.
    """

    processor: str
    cores: int
    bandwidth_gb_per_s: float | None
    int8_gops: float | None
    note: str = ""

    def roofline_share(self, tokens_per_second: float, *, weight_bytes: int) -> float | None:
        """Share of the rate at which every weight is read once per token.

        >>> Machine("", 2, 25.0, None).roofline_share(125.0, weight_bytes=100_000_000)
        0.5
        """
        if self.bandwidth_gb_per_s is None:
            return None
        return tokens_per_second * weight_bytes / (self.bandwidth_gb_per_s * 1e9)

    def arithmetic_share(self, tokens_per_second: float, *, multiplies: int) -> float | None:
        """Share of the int8 rate, for `multiplies` weights used once per token.

        >>> Machine("", 2, None, 200.0).arithmetic_share(500.0, multiplies=100_000_000)
        0.5
        """
        if self.int8_gops is None:
            return None
        return tokens_per_second * 2 * multiplies / (self.int8_gops * 1e9)


@dataclass(slots=True)
class BusyWatch:
    """Notices processor time that neither the measured process nor this one used.

    Attributes:
        shares: What others took in each phase watched, in cores.
    """

    shares: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def during(self, what: str, pid: int) -> Iterator[None]:
        """Watch one phase that process `pid` works on."""
        start, before = time.monotonic(), _foreign_ticks(pid)
        yield
        seconds = time.monotonic() - start
        # A clock tick is 10 ms: a shorter phase cannot tell one tick from a busy neighbour.
        if seconds >= _SHORTEST_WATCH_SECONDS:
            self.shares.append((what, (_foreign_ticks(pid) - before) / _TICKS / seconds))

    def warnings(self) -> list[str]:
        """Say how many phases had company, and which had most; empty on a quiet machine.

        >>> BusyWatch([("decode_1", 0.01), ("ttft", 0.4)]).warnings()
        ['in 1 of 2 runs others used the processor, most in ttft (40% of a core)']
        """
        busy = [(share, what) for what, share in self.shares if share > _FOREIGN_SHARE_LIMIT]
        if not busy:
            return []
        share, what = max(busy)
        return [
            f"in {len(busy)} of {len(self.shares)} runs others used the processor, most in "
            f"{what} ({share:.0%} of a core)"
        ]


def busy_load() -> str | None:
    """Say what is wrong when the load average shows a neighbour before anything started."""
    load = os.getloadavg()[0]
    if load < 0.5:
        return None
    return f"the load average is {load:.1f} before the first run; figures will be low"


def measure_machine(build_folder: Path) -> Machine:
    """Compile and run the probe; without a compiler the limits are left out, with a note."""
    processor, cores = _processor_name(), len(os.sched_getaffinity(0))
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        return Machine(processor, cores, None, None, "no C++ compiler to build the probe with")
    build_folder.mkdir(parents=True, exist_ok=True)
    probe = build_folder / "probe"
    options = ["-O3", "-march=native", "-std=c++20", "-pthread"]
    subprocess.run([compiler, *options, str(_PROBE_SOURCE), "-o", str(probe)], check=True)
    output = subprocess.run(
        [str(probe), str(cores)], check=True, capture_output=True, text=True
    ).stdout
    bandwidth, int8 = (float(word) for word in output.split())
    note = "" if int8 else "the probe has no 8-bit instructions for this processor"
    return Machine(processor, cores, bandwidth, int8 or None, note)


def _processor_name() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found.group(1) if found else os.uname().machine


def _foreign_ticks(pid: int) -> int:
    """Ticks all processors were not idle, less those of `pid` and of this process.

    Time stolen by the hypervisor counts as foreign: it slows the measured process as much.
    """
    user, nice, system, _, _, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split(maxsplit=9)[1:9]
    )
    busy = user + nice + system + irq + softirq + steal
    return busy - _own_ticks(pid) - (_own_ticks(os.getpid()) if pid != os.getpid() else 0)


def _own_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15]))  # utime, stime, and those of children waited for
