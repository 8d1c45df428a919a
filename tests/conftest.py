"""Fixtures that every test may ask for; nothing heavy is imported at collection."""

import os
from collections import Counter
from pathlib import Path

import pytest

# Read once, before any test changes the environment: the store of the person who runs the tests.
_USER_HOME = os.environ.get("YEARLING_HOME")
_FOREIGN_PREFIXES = ("YEARLING_", "OPENAI_")
_PROMISED = "promised"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the page last.

    Playwright keeps an event loop running in the main thread until the session ends, and no
    other loop can be started there.
    """
    items.sort(key=lambda item: item.get_closest_marker("browser") is not None)
    for item in items:
        if (promised := item.get_closest_marker("promised")) is not None:
            item.user_properties.append((_PROMISED, promised.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """A line for each promise of which every case that ran was kept."""
    cases = Counter(_promises(terminalreporter, "passed"))
    broken = {*_promises(terminalreporter, "failed"), *_promises(terminalreporter, "error")}
    for text, count in sorted(cases.items()):
        if text not in broken:
            terminalreporter.write_line(f"  promise: {text} ({count} tests)")


def _promises(reporter: pytest.TerminalReporter, outcome: str) -> list[str]:
    reports = [r for r in reporter.getreports(outcome) if isinstance(r, pytest.TestReport)]
    return [
        str(text) for report in reports for name, text in report.user_properties
        if name == _PROMISED
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's settings, so that a test passes or fails for everybody."""
    for name in list(os.environ):
        if name.startswith(_FOREIGN_PREFIXES) and name != "YEARLING_HOME":
            monkeypatch.delenv(name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture
def tmp_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty YEARLING_HOME of this test's own."""
    home = tmp_path / "yearling-home"
    home.mkdir()
    monkeypatch.setenv("YEARLING_HOME", str(home))
    return home


@pytest.fixture(scope="session")
def smollm2_path() -> Path:
    """The embedded model's GGUF file in the user's own store; pulled when it is not there yet."""
    return _pulled("smollm2")


@pytest.fixture(scope="session")
def minilm_path() -> Path:
    """The sentence encoder's folder, in the same way."""
    return _pulled("minilm")


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """The multilingual model's GGUF file, in the same way; the test skips without consent.

    Its terms are accepted by a person, with `yearling pull gemma3-270m`, and never by a test.
    """
    from yearling.core.errors import LicenceError

    try:
        return _pulled("gemma3-270m")
    except LicenceError as error:
        pytest.skip(str(error))


def _pulled(name: str) -> Path:
    from yearling.models.store import pull

    with pytest.MonkeyPatch.context() as patch:
        if _USER_HOME is None:
            patch.delenv("YEARLING_HOME", raising=False)
        else:
            patch.setenv("YEARLING_HOME", _USER_HOME)
        return pull(name)
