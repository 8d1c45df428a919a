"""The bounds that reading a request body needs; their values are in `server/limits.py`."""

from collections.abc import Sized
from dataclasses import dataclass

from yearling.core.errors import RequestError

__all__ = ["RequestLimits"]


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Bounds on what one request body may hold.

    Attributes:
        json_depth: Levels of nested arrays and objects.
        integer_digits: Decimal digits of one JSON integer.
        messages: Messages of one conversation.
        choices: Answers to one prompt (`n`).
        prompts: Prompts in one completions request.
        inputs: Texts in one embeddings request.
        stops: Stop strings.
        logit_biases: Entries of `logit_bias`.
    """

    json_depth: int
    integer_digits: int
    messages: int
    choices: int
    prompts: int
    inputs: int
    stops: int
    logit_biases: int

    def check_messages(self, messages: Sized, parameter: str = "messages") -> None:
        """Refuse a conversation of too many messages.

        Raises:
            RequestError: it is one; `parameter` names it.
        """
        self._check(parameter, messages, self.messages, "entries")

    def check_stops(self, stops: Sized, parameter: str = "stop") -> None:
        """Refuse too many stop strings.

        Raises:
            RequestError: they are; `parameter` names them.
        """
        self._check(parameter, stops, self.stops, "strings")

    def _check(self, parameter: str, values: Sized, most: int, what: str) -> None:
        if len(values) > most:
            raise RequestError(
                f"{parameter} holds {len(values)} {what}; {most} is the limit.", parameter=parameter
            )
