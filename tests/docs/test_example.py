"""The README's example of training: its very commands, from a CSV file to a better served model."""

import csv
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.docs.pages import READMES, REPOSITORY, shell_commands

EXAMPLE = REPOSITORY / "examples" / "support_desk"
MAX_SECONDS = 600
MIN_GAIN = 40.0  # points


def rows_of(name: str) -> list[tuple[str, str]]:
    with (EXAMPLE / name).open(encoding="utf-8", newline="") as file:
        return [(row["question"], row["answer"]) for row in csv.DictReader(file)]


def runs_of_words(question: str, length: int = 5) -> set[tuple[str, ...]]:
    words = re.findall(r"[\w']+", question.lower())
    return {tuple(words[start : start + length]) for start in range(len(words) - length + 1)}


def example_commands() -> list[list[str]]:
    """Those that speak of the example, in order, with the programs of this environment."""
    found = [
        words
        for words in shell_commands(READMES[0])
        if re.search("support.desk|runs/", " ".join(words))
    ]
    programs = Path(sys.executable).parent
    return [[str(programs / Path(words[0]).name), *words[1:]] for words in found]


def run(command: list[str], folder: Path) -> tuple[str, float]:
    started = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAX_SECONDS,
    )
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s: {' '.join(command[1:])}\n{done.stdout}")
    assert done.returncode == 0, done.stdout
    return done.stdout, seconds


@contextmanager
def serving(command: list[str], folder: Path) -> Iterator[str]:
    """Run the server of the README, on a port that is free here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, stdout=log, stderr=subprocess.STDOUT
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not is_ready(url):
            assert process.poll() is None, (folder / "server.log").read_text()
            assert time.monotonic() < deadline, (folder / "server.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def is_ready(url: str) -> bool:
    try:
        with urlopen(f"{url}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (URLError, ConnectionError, TimeoutError):
        return False


def test_held_out_messages_are_in_other_words_than_the_trained_ones() -> None:
    trained, held_out = rows_of("rows.csv"), rows_of("held_out.csv")
    known = set().union(*(runs_of_words(question) for question, _ in trained))
    assert [question for question, _ in held_out if runs_of_words(question) & known] == []
    assert {code for _, code in held_out} == {code for _, code in trained}
    desks = (EXAMPLE / "desks.txt").read_text("utf-8")
    assert {code for _, code in trained} == set(re.findall(r"^(\S+): ", desks, re.MULTILINE))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_commands_of_the_readme_run_one_after_the_other(tmp_path: Path, smollm2_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "examples" / EXAMPLE.name)
    held_out = tmp_path / "examples" / EXAMPLE.name / "held_out.csv"
    held_out.write_text("".join(held_out.read_text("utf-8").splitlines(keepends=True)[:5]), "utf-8")
    shares, _ = teach(tmp_path, "--set", "steps=2")
    assert len(shares) == 2


@pytest.mark.example
@pytest.mark.timeout(MAX_SECONDS + 120)
def test_commands_of_the_readme_teach_the_codes(tmp_path: Path, smollm2_path: Path) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "examples" / EXAMPLE.name)
    (base, tuned), seconds = teach(tmp_path)
    print(f"{base} % before, {tuned} % after, {seconds:.0f} s")
    assert tuned >= base + MIN_GAIN
    assert seconds <= MAX_SECONDS


def teach(folder: Path, *training_options: str) -> tuple[list[float], float]:
    """Give the shares of right answers, of the base and of what it became, and the seconds."""
    check, train, merge, serve, score = example_commands()
    assert [command[1] for command in (check, train, merge, serve)] == [
        "data", "train", "merge", "serve",
    ]  # fmt: skip
    commands = (check, [*train, *training_options], merge)
    seconds = sum(run(command, folder)[1] for command in commands)
    with serving(serve, folder) as url:
        printed, asked = run([*score, "--url", url], folder)
    shares = [float(share) for share in re.findall(r"([\d.]+) %$", printed, re.MULTILINE)]
    return shares, seconds + asked
