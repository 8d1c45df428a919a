"""The program's commands as a user runs them."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from yearling.cli.main import app

ROOT = Path(__file__).parents[2]
COMMANDS = {
    *(
        "bench",
        "chat",
        "convert",
        "data",
        "doctor",
        "explain",
        "list",
        "merge",
        "parity",
        "plan",
        "pull",
        "rm",
        "run",
    ),
    *("serve", "show", "systems", "train", "version"),
}


def run(*arguments: str, stdin: str | None = None, **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "yearling.cli.main", *arguments],
        capture_output=True,
        text=True,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), **environment},
        timeout=60,
    )


def test_commands_are_those_documented() -> None:
    import typer.main

    group = typer.main.get_command(app)
    assert set(group.commands) == COMMANDS
    assert all(command.help for command in group.commands.values())
    parameters = [
        parameter
        for command in group.commands.values()
        for parameter in command.params
        if parameter.param_type_name == "option"
    ]
    assert all(parameter.help for parameter in parameters)


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
sys.argv = ["yearling", "--help"]
from yearling.cli.main import main
try:
    main()
finally:
    heavy = {"numpy", "pydantic", "starlette", "rich", "asyncio", "tokenizers", "jinja2", "yaml"}
    print("HEAVY", sorted(heavy & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment
    )
    assert ended.returncode == 0
    assert "HEAVY []" in ended.stdout
    assert all(command in ended.stdout for command in COMMANDS)


def test_help_answers_at_once() -> None:
    before = os.times()
    ended = run("--help")
    after = os.times()
    assert ended.returncode == 0
    # Processor time, so that a busy machine does not fail the test.
    spent = after.children_user + after.children_system
    spent -= before.children_user + before.children_system
    assert spent < 0.3


def test_version_is_printed_by_command_and_option() -> None:
    from yearling import __version__

    assert run("version").stdout == run("--version").stdout == f"yearling {__version__}\n"


def test_no_command_shows_help_and_unknown_one_fails() -> None:
    assert "Usage" in run().stdout + run().stderr
    ended = run("serv")
    assert ended.returncode == 2
    assert "serv" in ended.stderr


def test_error_is_one_message_without_a_traceback(tmp_home: Path) -> None:
    for command in (["show", "nothing"], ["rm", "-y", "nothing"], ["chat", "-m", "nothing", "Hi"]):
        ended = run(*command)
        assert ended.returncode == 1
        assert ended.stderr.startswith("error: there is no model 'nothing'")
        assert "Traceback" not in ended.stderr
        assert ended.stdout == ""


def test_error_cannot_drive_the_terminal(tmp_home: Path) -> None:
    ended = run("show", "a\x1b[2Jb\rc")
    assert "\x1b" not in ended.stderr
    assert "\r" not in ended.stderr


def test_options_take_hyphen_and_underscore() -> None:
    for option in ("--show-limits", "--show_limits"):
        ended = run("serve", option)
        assert ended.returncode == 0
        assert "header_bytes" in ended.stdout


def test_show_limits_prints_every_limit_as_configured() -> None:
    from dataclasses import fields

    from yearling.server.limits import Limits

    ended = run("serve", "--show-limits", "--set", "server.limits.open_requests=7")
    lines = {line.split()[0]: line.split()[1] for line in ended.stdout.splitlines()}
    assert set(lines) == {field.name for field in fields(Limits)}
    assert lines["open_requests"] == "7"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "no API key is set"),
        (["--port", "99999"], "server.port"),
        (["--weights", "int3"], "engine.weights"),
        (["--set", "server.prt=1"], "Nearest: port"),
        (["--set", "nonsense"], "section.key=value"),
        (["--config", "nothing.yaml"], "no configuration file"),
        (["--model", "a.gguf", "--model", "b/a.gguf"], "called the same"),
        (["--served-model-name", "a", "--served-model-name", "b"], "served names"),
    ],
)
def test_wrong_setting_says_what_to_do(arguments: list[str], message: str) -> None:
    ended = run("serve", *arguments)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_key_of_the_environment_is_used_and_never_shown() -> None:
    arguments = ("serve", "--host", "0.0.0.0", "--set", "server.prt=1")
    for more, environment in (
        ((), {"YEARLING_API_KEY": "sk-hidden"}),
        (("--api-key", "sk-hidden"), {}),
    ):
        ended = run(*arguments, *more, **environment)
        assert ended.returncode == 1
        assert "sk-hidden" not in ended.stderr + ended.stdout
    ended = run("serve", "--host", "0.0.0.0", "--show-limits", YEARLING_API_KEY="sk-hidden")
    assert ended.returncode == 0


def test_list_of_an_empty_store_says_how_to_fill_it(tmp_home: Path) -> None:
    ended = run("list")
    assert (ended.returncode, ended.stdout) == (0, "")
    assert "yearling pull smollm2" in ended.stderr


def test_pull_of_a_model_under_terms_names_them_and_how_to_accept(tmp_home: Path) -> None:
    ended = run("pull", "gemma3-270m")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Gemma Terms of Use, https://ai.google.dev/gemma/terms" in ended.stderr
    assert "yearling pull gemma3-270m --accept-licence" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_rm_asks_first(tmp_home: Path) -> None:
    ended = run("rm", "smollm2", stdin="n\n")
    assert ended.returncode == 1
    assert "Delete smollm2" in ended.stderr


def test_doctor_names_every_subject() -> None:
    ended = run("doctor")
    subjects = ("yearling", "libraries", "processor", "kernels", "memory", "disk", "store")
    assert all(
        any(line[7:].strip().startswith(s) for line in ended.stdout.splitlines()) for s in subjects
    )
    assert ended.returncode == (1 if "WRONG" in ended.stdout else 0)


def test_doctor_says_how_to_fix(tmp_home: Path) -> None:
    assert "→ yearling pull smollm2" in run("doctor").stdout
    ended = run("doctor", YEARLING_HOME="/dev/null/nothing")
    assert ended.returncode == 1
    assert "→ set YEARLING_HOME" in ended.stdout


def test_empty_question_is_refused() -> None:
    assert run("chat", "").returncode == 2
    assert run("chat", stdin=" \n").returncode == 2


def test_serve_of_a_damaged_model_says_which_and_ends(tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    path.write_bytes(b"GGUF" + b"\xff" * 100)
    ended = run("serve", "--port", "0", "--model", str(path))
    assert ended.returncode == 1
    assert "error: " in ended.stderr
    assert "damaged.gguf" in ended.stderr
    assert "Traceback" not in ended.stderr


class Terminal:
    """The program on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        # A terminal's programs hear Ctrl-C; those of a shell's background job inherit deaf ears.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "yearling.cli.main", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "TERM": "dumb"},
            start_new_session=True,
        )
        signal.signal(signal.SIGINT, before)
        os.close(slave)
        self._unread = ""

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        """Read until a text appears; what comes after it stays for the next call."""
        start = time.monotonic()
        os.set_blocking(self._master, False)
        while text not in self._unread:
            assert time.monotonic() - start < seconds, (text, self._unread)
            try:
                self._unread += os.read(self._master, 65536).decode(errors="replace")
            except BlockingIOError:
                time.sleep(0.02)
        self._unread = self._unread.partition(text)[2]

    def type(self, line: str) -> None:
        os.write(self._master, (line + "\n").encode())

    def end(self) -> int:
        """The exit status, once the program has ended."""
        deadline = time.monotonic() + 15
        while self.process.poll() is None:
            assert time.monotonic() < deadline
            try:
                os.read(self._master, 65536)
            except OSError:
                time.sleep(0.02)
        os.close(self._master)
        return self.process.returncode


def test_chat_answers_one_question(smollm2_path: Path) -> None:
    ended = run(
        "chat",
        "-m",
        str(smollm2_path),
        "--temperature",
        "0",
        "--max_tokens",
        "16",
        "--set",
        "engine.weights=float32",
        "What is the capital of France?",
    )
    assert ended.returncode == 0, ended.stderr
    assert "Paris" in ended.stdout


def test_chat_takes_the_question_from_argument_pipe_or_both(smollm2_path: Path) -> None:
    base = ("chat", "-m", str(smollm2_path), "--seed", "7", "--max-tokens", "16")
    answer = run(*base, "Summarise this.\n\nThe sea is wide.").stdout
    assert answer
    assert run(*base, "Summarise this.", stdin="The sea is wide.\n").stdout == answer
    assert run(*base, stdin="Summarise this.\n\nThe sea is wide.\n").stdout == answer


def test_pull_on_a_terminal_asks_whether_terms_are_accepted(tmp_home: Path) -> None:
    terminal = Terminal("pull", "gemma3-270m")
    terminal.wait_for("Gemma Terms of Use: https://ai.google.dev/gemma/terms")
    terminal.wait_for("do you accept them? [y/N]")
    terminal.type("n")
    assert terminal.end() == 1
    assert not (tmp_home / "models" / "gemma3-270m").exists()


def test_chat_on_a_terminal_survives_an_interrupt(smollm2_path: Path) -> None:
    terminal = Terminal("chat", "-m", str(smollm2_path), "--temperature", "0")
    terminal.wait_for("Ctrl-C stops")
    terminal.wait_for("> ")
    terminal.type("Write a very long story about the sea.")
    terminal.wait_for("the sea.\r\n")
    terminal.wait_for(" the ")
    terminal.interrupt()
    terminal.wait_for("\n> ", seconds=10)
    terminal.interrupt()
    terminal.wait_for("Ctrl-D or /quit ends")
    terminal.type("/new")
    terminal.wait_for("> ")
    terminal.type("/quit")
    assert terminal.end() == 0
