"""The report at the end: a line per family with its worst difference and who it differs from."""

from collections import defaultdict
from typing import Any

import pytest

Key = tuple[str, str, float]

_DIFFERENCES: dict[Key, dict[str, float]] = defaultdict(dict)


@pytest.fixture(scope="session")
def differences() -> dict[Key, dict[str, float]]:
    """Worst difference by executor, by family, oracle and tolerance."""
    return _DIFFERENCES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a worker of pytest-xdist has compared."""
    for (family, oracle, tolerance), worst in getattr(node, "workeroutput", {}).get("parity", []):
        row = _DIFFERENCES[family, oracle, tolerance]
        for name, value in worst.items():
            row[name] = max(row.get(name, 0.0), value)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand over what was compared, in a worker."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["parity"] = [(list(key), dict(worst)) for key, worst in _DIFFERENCES.items()]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was compared."""
    if _DIFFERENCES:
        terminalreporter.section("parity: worst difference of logits", sep="-")
    for (family, oracle, tolerance), worst in sorted(_DIFFERENCES.items()):
        figures = "  ".join(f"{name} {value:.1e}" for name, value in sorted(worst.items()))
        verdict = "ok  " if max(worst.values()) <= tolerance else "FAIL"
        terminalreporter.write_line(f"{verdict} {family:<12} {figures}  against {oracle}")
