"""Fixtures of the server's tests."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.live import LiveServer, running_server, started


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server without keys over the reciting model."""
    with running_server() as live:
        yield live


@pytest.fixture(scope="session")
def smollm2_server(smollm2_path: Path) -> Iterator[LiveServer]:
    """`yearling serve` with the embedded model, without keys."""
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    with started([*command, "--model", str(smollm2_path)], seconds=60) as live:
        yield live
