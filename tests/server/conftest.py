"""Fixtures of the server's tests."""

from collections.abc import Iterator

import pytest

from tests.server.live import LiveServer, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server without keys over the reciting model."""
    with running_server() as live:
        yield live
