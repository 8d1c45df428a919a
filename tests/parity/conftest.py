"""The report at the end: a line per family with its worst difference and who it differs from."""

from collections import defaultdict

import pytest

_DIFFERENCES: dict[tuple[str, str, float], dict[str, float]] = defaultdict(dict)


@pytest.fixture(scope="session")
def differences() -> dict[tuple[str, str, float], dict[str, float]]:
    """Worst difference by executor, by family, oracle and tolerance."""
    return _DIFFERENCES


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what was compared."""
    if _DIFFERENCES:
        terminalreporter.section("parity: worst difference of a log-probability", sep="-")
    for (family, oracle, tolerance), worst in sorted(_DIFFERENCES.items()):
        figures = "  ".join(f"{name} {value:.1e}" for name, value in sorted(worst.items()))
        verdict = "ok  " if max(worst.values()) <= tolerance else "FAIL"
        terminalreporter.write_line(f"{verdict} {family:<12} {figures}  against {oracle}")
