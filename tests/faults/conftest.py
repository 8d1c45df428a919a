"""What every test of promises has: a way to say what was shown."""

from collections.abc import Callable

import pytest

Promise = Callable[[str], None]


@pytest.fixture
def promise(capsys: pytest.CaptureFixture[str]) -> Promise:
    """Says what was shown, a line each, also when output is captured."""

    def say(text: str) -> None:
        with capsys.disabled():
            print(f"\n  promise: {text}")

    return say
