import io
import logging
from collections.abc import Iterator

import pytest

from yearling.core.errors import ConfigError
from yearling.core.log import escape_controls, set_up_logging


class Terminal(io.StringIO):
    """A stream that calls itself a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _restore_logger() -> Iterator[None]:
    logger = logging.getLogger("yearling")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.mark.parametrize("hidden", ["\n", "\r", "\x1b[2J", "\x00", "\x9b", "\u2028", "\u202e"])
def test_escape_controls_leaves_no_control_character(hidden: str) -> None:
    escaped = escape_controls(f"before{hidden}after")
    assert escaped.isascii()
    assert escaped.isprintable()


def test_escape_controls_keeps_text_of_any_language() -> None:
    assert escape_controls("元年\tß é") == "元年\tß é"


def test_record_from_outside_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream)
    logging.getLogger("yearling.server").info("GET %s", "/\n2023-01-01 INFO all is well")
    assert stream.getvalue().count("\n") == 1
    assert r"GET /\n2023-01-01" in stream.getvalue()


def test_traceback_lines_cannot_pass_for_records() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream)
    try:
        raise ValueError("\nforged\x1b[31m")
    except ValueError:
        logging.getLogger("yearling").exception("failed")
    first, *rest = stream.getvalue().splitlines()
    assert first.endswith("yearling: failed")
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in stream.getvalue()


def test_level_holds_back_what_is_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YEARLING_LOG_LEVEL", "WARNING")
    stream = io.StringIO()
    set_up_logging(stream=stream)
    logging.getLogger("yearling.a").info("quiet")
    logging.getLogger("yearling.a").warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_unknown_level_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'chatty' must be one of debug, info, warning, error"):
        set_up_logging("chatty")


def test_setting_up_twice_writes_once() -> None:
    stream = io.StringIO()
    set_up_logging("info", stream)
    set_up_logging("info", stream)
    logging.getLogger("yearling").info("once")
    assert stream.getvalue().count("once") == 1


def test_terminal_gets_markup_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    set_up_logging("info", stream)
    logging.getLogger("yearling").info("[bold]%s", "\x1b[2J")
    assert "[bold]" in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_no_color_gives_plain_lines_on_a_terminal() -> None:
    stream = Terminal()
    set_up_logging("info", stream)
    logging.getLogger("yearling").info("plain")
    assert stream.getvalue().endswith("INFO    yearling: plain\n")
