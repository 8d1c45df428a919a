"""Logging: one line per record on stderr, with control characters made visible.

Text that came from outside (a prompt, a header, a file name) can then neither forge a log
line nor drive a terminal.
"""

import logging
import re
import sys
from types import TracebackType
from typing import TextIO

from yearling.core.environment import read_variable
from yearling.core.errors import ConfigError

__all__ = ["escape_controls", "set_up_logging"]

_ExceptionInfo = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)
_LEVELS = ("debug", "info", "warning", "error")
# C0 without tab, DEL, C1, line separators, and the marks that reorder text on screen.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def set_up_logging(level: str | None = None, stream: TextIO | None = None) -> None:
    """Send the package's log to a stream, and nothing to the root logger.

    A terminal gets colours, unless `NO_COLOR` is set; anything else gets plain lines.

    Args:
        level: `debug`, `info`, `warning` or `error`; None takes `YEARLING_LOG_LEVEL`, else info.
        stream: stderr when None.
    Raises:
        ConfigError: there is no such level.
    """
    chosen = (level or read_variable("YEARLING_LOG_LEVEL") or "info").lower()
    if chosen not in _LEVELS:
        raise ConfigError(f"log level {chosen!r} must be one of {', '.join(_LEVELS)}.")
    logger = logging.getLogger("yearling")
    for old in logger.handlers[:]:
        logger.removeHandler(old)
    logger.addHandler(_handler(stream or sys.stderr))
    logger.setLevel(chosen.upper())
    logger.propagate = False


def escape_controls(text: str) -> str:
    r"""Replace each control character by its escape.

    >>> escape_controls("name\r\n\x1b[2J")
    'name\\r\\n\\x1b[2J'
    """
    return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class _EscapingFormatter(logging.Formatter):
    """Escapes the message; lines of a traceback are indented, so none can pass for a record."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = escape_controls(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExceptionInfo) -> str:  # noqa: N802 - logging's name
        text = super().formatException(ei)
        return "\n".join("  " + escape_controls(line) for line in text.split("\n"))


def _handler(stream: TextIO) -> logging.Handler:
    if not stream.isatty() or read_variable("NO_COLOR"):
        plain = logging.StreamHandler(stream)
        layout = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
        plain.setFormatter(_EscapingFormatter(layout))
        return plain
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.logging import RichHandler

    console = Console(file=stream)
    rich = RichHandler(console=console, show_path=False, highlighter=NullHighlighter())
    rich.setFormatter(_EscapingFormatter("%(message)s"))
    return rich
