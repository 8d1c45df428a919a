"""What `yearling doctor` finds out about a machine and an installation."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from yearling import __version__
from yearling.core.errors import YearlingError
from yearling.core.paths import models_home

__all__ = ["Finding", "diagnose"]

_LIBRARIES = ("numpy", "tokenizers", "jinja2", "starlette", "uvicorn", "pydantic", "msgspec")
_LITTLE_MEMORY_BYTES = 1 << 30
_LITTLE_DISK_BYTES = 1 << 30
_CPU_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "asimd", "asimddp")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        remedy: What to do; empty when nothing is to be done.
    """

    subject: str
    what: str
    verdict: Literal["good", "warning", "bad"] = "good"
    remedy: str = ""


def diagnose() -> list[Finding]:
    """Look at everything; a check that itself fails is a finding too."""
    checks: tuple[Callable[[], Finding], ...] = (
        _yearling,
        _libraries,
        _processor,
        _kernels,
        _memory,
        _disk,
        _store,
    )
    return [_checked(check) for check in checks]


def _checked(check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except (YearlingError, OSError, ImportError) as error:
        return Finding(check.__name__.strip("_"), str(error), "bad", "see the message")


def _yearling() -> Finding:
    what = f"{__version__}, Python {platform.python_version()} at {sys.executable}"
    return Finding("yearling", f"{what}, {platform.platform(terse=True)}")


def _libraries() -> Finding:
    found, missing = [], []
    for name in _LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        what = f"missing: {', '.join(missing)}"
        return Finding("libraries", what, "bad", "install again: pip install yearling")
    return Finding("libraries", ", ".join(found))


def _processor() -> Finding:
    text = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    stripped = {name.strip(): value.strip() for name, value in fields.items()}
    flags = (stripped.get("flags") or stripped.get("Features") or "").split()
    features = [name for name in _CPU_FEATURES if name in flags]
    cores = len(os.sched_getaffinity(0))
    model = stripped.get("model name", platform.machine())
    what = f"{model}, {cores} cores for us, {' '.join(features) or 'no vector extension known'}"
    busy = os.getloadavg()[0]
    if busy > cores:
        remedy = "answers will be slower than they could be: end what else runs"
        return Finding("processor", f"{what}; load {busy:.1f}", "warning", remedy)
    return Finding("processor", what)


def _kernels() -> Finding:
    try:
        from yearling.kernels import _native
    except ImportError as error:
        return Finding(
            "kernels", f"the native core is missing: {error}", "bad", "install again from a wheel"
        )
    chosen = _native.kernel_name("auto")
    if chosen == "portable":
        return Finding("kernels", "portable", "warning", "none fits this processor better")
    return Finding("kernels", chosen)


def _memory() -> Finding:
    text = Path("/proc/meminfo").read_text("utf-8")
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in text.splitlines()}
    free = sizes["MemAvailable"]
    what = f"{free / 1e9:.1f} GB of {sizes['MemTotal'] / 1e9:.1f} GB are available"
    if free < _LITTLE_MEMORY_BYTES:
        return Finding("memory", what, "warning", "end other programs, or set engine.cache_bytes")
    return Finding("memory", what)


def _disk() -> Finding:
    folder = models_home()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        return Finding("disk", f"{existing} cannot be written", "bad", "set YEARLING_HOME")
    free = shutil.disk_usage(existing).free
    what = f"{free / 1e9:.1f} GB are free for {folder}"
    if free < _LITTLE_DISK_BYTES:
        return Finding("disk", what, "warning", "make room, or set YEARLING_HOME")
    return Finding("disk", what)


def _store() -> Finding:
    from yearling.models.store import installed

    names = [model.name for model in installed()]
    if not names:
        return Finding("store", "no model yet", "warning", "yearling pull smollm2")
    return Finding("store", ", ".join(names))
