"""Responses that are kept, so that later ones go on from them; in memory, bounded, by account."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from yearling.core.messages import Message
from yearling.server.errors import HttpError
from yearling.server.limits import Limits
from yearling.wire.openai.errors import ErrorReply

__all__ = ["KeptResponse", "ResponseStore"]


@dataclass(frozen=True, slots=True)
class KeptResponse:
    """A response and the conversation up to it.

    Attributes:
        body: As it was answered, JSON.
        messages: What was said before and in it, without instructions.
    """

    body: bytes
    messages: Sequence[Message]

    @property
    def num_bytes(self) -> int:
        """What keeping it may cost; messages that others keep too count here as well."""
        texts = (message.text for message in self.messages)
        arguments = (call.arguments for message in self.messages for call in message.tool_calls)
        return len(self.body) + sum(len(text.encode()) for text in (*texts, *arguments))


class _Account:
    """What is kept for one account, the oldest first."""

    def __init__(self) -> None:
        self.kept: OrderedDict[str, KeptResponse] = OrderedDict()
        self.num_bytes = 0

    def put(self, response_id: str, response: KeptResponse) -> None:
        self.kept[response_id] = response
        self.num_bytes += response.num_bytes

    def drop(self, response_id: str) -> None:
        self.num_bytes -= self.kept.pop(response_id).num_bytes


class ResponseStore:
    """The newest responses of each account.

    When a limit is reached, the oldest of the account that keeps most goes: nobody drives out what
    others keep.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._accounts: dict[str, _Account] = {}

    def put(self, account: str, response_id: str, response: KeptResponse) -> None:
        """Keep a response of an account; nobody else finds it."""
        self._accounts.setdefault(account, _Account()).put(response_id, response)
        while sum(len(own.kept) for own in self._accounts.values()) > self._limits.kept_responses:
            self._drop_oldest(max(self._accounts.values(), key=lambda own: len(own.kept)))
        while (
            sum(own.num_bytes for own in self._accounts.values()) > self._limits.kept_response_bytes
        ):
            self._drop_oldest(max(self._accounts.values(), key=lambda own: own.num_bytes))

    def get(self, account: str, response_id: str, parameter: str | None = None) -> KeptResponse:
        """Find a response of an account.

        Raises:
            HttpError: 404; it was never kept, or is kept no longer.
        """
        kept = self._accounts.get(account, _Account()).kept.get(response_id)
        if kept is None:
            raise HttpError(
                ErrorReply(
                    404,
                    f"There is no response {response_id[:64]!r}: it was made with store=false, "
                    "deleted, or is not among the newest, which live as long as the server.",
                    code="response_not_found",
                    param=parameter,
                )
            )
        return kept

    def delete(self, account: str, response_id: str) -> None:
        """Forget a response.

        Raises:
            HttpError: 404; there is none.
        """
        self.get(account, response_id)
        self._accounts[account].drop(response_id)

    def _drop_oldest(self, own: _Account) -> None:
        own.drop(next(iter(own.kept)))
