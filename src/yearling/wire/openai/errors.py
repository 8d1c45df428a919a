"""Every error as OpenAI's error object, with the HTTP status that belongs to it."""

from dataclasses import dataclass
from typing import Any

from yearling.core.errors import (
    CapacityError,
    ContextLengthError,
    ModelNotFoundError,
    RequestError,
    TemplateError,
    UnsupportedError,
    WorkerLostError,
)

__all__ = ["ErrorReply", "error_reply"]


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """An error as a client sees it.

    Attributes:
        status: HTTP status.
        type: OpenAI's class of the error, for example `invalid_request_error`.
        code: What exactly, for programs; None when the type says it all.
        param: The request field at fault, for example `messages[2].role`.
        retry_after_seconds: When trying again makes sense; None when it does not.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after_seconds: int | None = None

    def payload(self) -> dict[str, Any]:
        """The body to send.

        >>> ErrorReply(404, "No such route.").payload()["error"]["type"]
        'invalid_request_error'
        """
        return {
            "error": {
                "message": self.message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


def error_reply(error: BaseException) -> ErrorReply:
    """Translate one of our errors; anything unexpected becomes a 500 that tells nothing.

    >>> error_reply(CapacityError("The queue is full.")).status
    429
    """
    message = str(error)
    match error:
        case ContextLengthError():
            return _refused(error, "context_length_exceeded")
        case UnsupportedError():
            return _refused(error, "unsupported_parameter")
        case RequestError():
            return _refused(error, "invalid_value" if error.parameter else None)
        case TemplateError():
            return ErrorReply(400, message, code="template_error", param="messages")
        case ModelNotFoundError():
            return ErrorReply(404, message, code="model_not_found", param="model")
        case CapacityError():
            return ErrorReply(
                429, message, "rate_limit_error", "rate_limit_exceeded", retry_after_seconds=1
            )
        case WorkerLostError():
            return ErrorReply(503, message, "server_error", "worker_lost", retry_after_seconds=2)
    return ErrorReply(500, _UNEXPECTED, "server_error", "internal_error")


_UNEXPECTED = "The server failed on this request; its log says why, under this x-request-id."


def _refused(error: RequestError, code: str | None) -> ErrorReply:
    return ErrorReply(400, str(error), code=code, param=error.parameter)
