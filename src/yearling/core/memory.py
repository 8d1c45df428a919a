"""How much memory this process may still take."""

from pathlib import Path

__all__ = ["available_bytes"]

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_CGROUP_USE = Path("/sys/fs/cgroup/memory.current")
_MEMINFO = Path("/proc/meminfo")


def available_bytes() -> int:
    """Free memory in bytes: what the kernel calls available, or less when a container says so.

    Falls back to 4 GiB where neither can be read.
    """
    available = _meminfo_available()
    try:
        room = int(_CGROUP_LIMIT.read_text()) - int(_CGROUP_USE.read_text())
    except (OSError, ValueError):  # no container, or "max"
        return available
    return max(0, min(available, room))


def _meminfo_available() -> int:
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return 4 << 30
