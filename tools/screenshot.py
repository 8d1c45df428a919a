"""Draws docs/images/chat.png: a real conversation with the embedded model, in headless Chromium.

python tools/screenshot.py                 starts a server of its own
python tools/screenshot.py --url URL       uses one that runs
"""

import argparse
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "images" / "chat.png"
MOST_BYTES = 300_000
START_SECONDS = 120.0
CONVERSATIONS = (
    ("Give me five tips for sleeping better.",),
    ("Why is the sky blue?",),
    (
        "Write a Python function that reverses a string, with an example.",
        "What is photosynthesis, in one sentence?",
    ),
)
# Greedy, so that the picture shows the same answers each time it is drawn.
SETTINGS = '{"temperature": 0, "maxTokens": 400, "theme": "light", "language": "en"}'


@contextmanager
def own_server() -> Iterator[str]:
    """A server on a free port, ended at the end."""
    command = [sys.executable, "-m", "yearling.cli.main", "serve", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield _address(process)
        finally:
            process.terminate()


def _address(process: subprocess.Popen[str]) -> str:
    """The address that the server prints when it is ready."""
    assert process.stdout is not None
    for line in process.stdout:
        words = [word for word in line.split() if word.startswith("http://")]
        if words:
            return words[0].rstrip("/")
    sys.exit("the server ended before it was ready")


def wait_until_healthy(url: str) -> None:
    """Wait until the server answers requests."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.2)
    sys.exit(f"{url}/health does not say that the server is ready")


def converse(page: Page, url: str) -> None:
    """Hold the conversations; the last stays open."""
    page.add_init_script(f"localStorage['yearling.settings'] = {SETTINGS!r}")
    page.goto(url)
    page.locator(".model-picker select:enabled").wait_for()
    for questions in CONVERSATIONS:
        page.keyboard.press("Control+k")
        page.locator(".empty").wait_for()
        for index, question in enumerate(questions):
            page.fill("#composer", question)
            page.keyboard.press("Enter")
            page.locator(".answer .speed").nth(index).wait_for(timeout=120_000)
    page.locator(".messages").evaluate("box => { box.scrollTop = 0; }")
    page.wait_for_timeout(500)


def draw(url: str, path: Path) -> None:
    """Write the picture.

    Raises:
        SystemExit: there is no Chromium, or the picture is too large for a README.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("chromium is not installed: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-gpu"]
        )
        size = {"width": 1280, "height": 800}
        page = browser.new_page(viewport=size, color_scheme="light", locale="en-US")
        converse(page, url)
        path.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=path)
        browser.close()
    if path.stat().st_size > MOST_BYTES:
        sys.exit(f"{path} has {path.stat().st_size} bytes, more than {MOST_BYTES}")
    print(f"{path}: {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a server that runs; without it one is started")
    parser.add_argument("--output", type=Path, default=PICTURE)
    options = parser.parse_args()
    if options.url:
        draw(options.url.rstrip("/"), options.output)
        return
    with own_server() as url:
        wait_until_healthy(url)
        draw(url, options.output)


if __name__ == "__main__":
    main()
