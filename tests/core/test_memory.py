from pathlib import Path

import pytest

from yearling.core import memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without a container and with 8 MiB available."""
    (tmp_path / "meminfo").write_text("MemTotal: 9999 kB\nMemAvailable:    8192 kB\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP_LIMIT", tmp_path / "max")
    monkeypatch.setattr(memory, "_CGROUP_USE", tmp_path / "current")
    return tmp_path


def test_available_bytes_is_what_the_kernel_calls_available(machine: Path) -> None:
    assert memory.available_bytes() == 8 << 20


@pytest.mark.parametrize(
    ("limit", "use", "expected"),
    [
        ("6291456", "2097152", 4 << 20),
        ("1000", "2000", 0),
        ("max", "2097152", 8 << 20),
        ("999999999", "0", 8 << 20),
    ],
)
def test_available_bytes_is_less_when_a_container_says_so(
    machine: Path, limit: str, use: str, expected: int
) -> None:
    (machine / "max").write_text(limit + "\n")
    (machine / "current").write_text(use + "\n")
    assert memory.available_bytes() == expected


@pytest.mark.parametrize("content", ["", "MemAvailable:\n", "MemAvailable: many kB\n"])
def test_available_bytes_falls_back_when_nothing_can_be_read(machine: Path, content: str) -> None:
    (machine / "meminfo").write_text(content)
    assert memory.available_bytes() == 4 << 30
