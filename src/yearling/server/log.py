"""What the server logs: one line per request and per failure, never a prompt or a key."""

import logging
from contextvars import ContextVar

from yearling.core.errors import YearlingError
from yearling.server.errors import HttpError

__all__ = ["REQUEST_ID", "log_failure", "log_request", "log_user"]

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="-")
"""The request that the current task answers."""

_logger = logging.getLogger("yearling.server")


def log_request(method: str, route: str, status: int, seconds: float) -> None:
    """Log that a request was answered."""
    _logger.debug(
        "%s %s %d in %.0f ms, request %s", method, route, status, seconds * 1e3, REQUEST_ID.get()
    )


def log_user(user: str) -> None:
    """Log whom a caller says it acts for, so that abuse can be followed up."""
    _logger.info("request %s is for user %s", REQUEST_ID.get(), user)


def log_failure(error: BaseException, status: int) -> None:
    """Log an error that is ours to explain: not a client's mistake, not a refusal on purpose."""
    if status < 500 or isinstance(error, HttpError):
        return
    if isinstance(error, YearlingError):
        _logger.warning("request %s failed: %s", REQUEST_ID.get(), error)
    else:
        _logger.error("request %s failed", REQUEST_ID.get(), exc_info=error)
