"""Responses that are kept, so that later ones go on from them; in memory, bounded, by account."""

import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from yearling.core.messages import Message
from yearling.server.errors import HttpError
from yearling.server.limits import Limits
from yearling.wire.openai.errors import ErrorReply

__all__ = ["KeptResponse", "ResponseStore"]


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response and the conversation up to it.

    Attributes:
        body: As it was answered.
        messages: What was said before and in it, without instructions.
    """

    body: Mapping[str, Any]
    messages: Sequence[Message]


class ResponseStore:
    """The newest responses of all accounts; the oldest go when a limit is reached."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[str, str], tuple[KeptResponse, int]] = OrderedDict()
        self._num_bytes = 0

    def put(self, account: str, response: KeptResponse, new_messages: Sequence[Message]) -> None:
        """Keep a response.

        Args:
            account: Whose it is; nobody else finds it.
            response: What is kept.
            new_messages: Those of its messages that no earlier response has.
        """
        said = sum(len(message.text) for message in new_messages)
        num_bytes = len(json.dumps(response.body)) + said
        self._kept[account, response.body["id"]] = response, num_bytes
        self._num_bytes += num_bytes
        while self._kept and (
            len(self._kept) > self._limits.kept_responses
            or self._num_bytes > self._limits.kept_response_bytes
        ):
            _, (_, freed) = self._kept.popitem(last=False)
            self._num_bytes -= freed

    def get(self, account: str, response_id: str, parameter: str | None = None) -> KeptResponse:
        """Find a response of an account.

        Raises:
            HttpError: 404; it was never kept, or is kept no longer.
        """
        if (account, response_id) not in self._kept:
            raise HttpError(
                ErrorReply(
                    404,
                    f"There is no response {response_id[:64]!r}: it was made with store=false, "
                    f"deleted, or is not among the newest {self._limits.kept_responses}, which "
                    "live as long as the server.",
                    code="response_not_found",
                    param=parameter,
                )
            )
        return self._kept[account, response_id][0]

    def delete(self, account: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            HttpError: 404; there is none.
        """
        self.get(account, response_id)
        _, freed = self._kept.pop((account, response_id))
        self._num_bytes -= freed
