"""One real server and one Chromium for all tests of the page; a fresh profile for each test."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect, sync_playwright

from tests.browser.driving import ChatPage

SERVER_START_SECONDS = 100.0
# Generous: a busy machine makes a test slow, never wrong.
PATIENCE_MILLISECONDS = 20_000
SERVED_NAMES = ("smollm2", "smollm2-again")
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]

OpenChat = Callable[..., ChatPage]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        is_ours = item.path.parent == Path(__file__).parent
        if is_ours and {"chat", "open_chat"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def server_url(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a `yearling serve` process with the embedded model."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log_path = tmp_path_factory.mktemp("server") / "log.txt"
    command = [sys.executable, "-m", "yearling.cli.main", "serve"]
    for name in SERVED_NAMES:
        path = log_path.with_name(f"{name}.gguf")
        path.symlink_to(smollm2_path)
        command += ["--model", str(path), "--served-model-name", name]
    source = str(Path(__file__).parents[2] / "src")
    environment = {**os.environ, "PYTHONPATH": source}
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], stdout=log, stderr=log, env=environment
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url, log_path)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log_path: Path) -> None:
    end = time.monotonic() + SERVER_START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            pytest.fail(f"the server ended with {process.returncode}:\n{log_path.read_text()}")
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=2):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    pytest.fail(f"the server did not get ready:\n{log_path.read_text()}")


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Headless Chromium, the system's own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("chromium is not installed: apt-get install chromium")
    expect.set_options(timeout=PATIENCE_MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_chat(chromium: Browser, server_url: str) -> Iterator[OpenChat]:
    """Opens the page in a fresh profile; at the end, no page may have asked another host
    for anything, nor have written an error nobody expected.
    """
    opened: list[ChatPage] = []

    def open_one(**options: object) -> ChatPage:
        chat = ChatPage(chromium, server_url, **options)  # type: ignore[arg-type]
        opened.append(chat)
        return chat

    yield open_one
    for chat in opened:
        chat.close()
    for chat in opened:
        assert chat.foreign_requests() == []
        assert chat.unexpected_errors() == []


@pytest.fixture
def chat(open_chat: OpenChat) -> ChatPage:
    """The page as an English desktop shows it, with short answers."""
    return open_chat()
