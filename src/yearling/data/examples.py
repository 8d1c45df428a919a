"""What a row says once its schema is known: the four kinds of example that methods learn from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from yearling.core.messages import Message

__all__ = [
    "Continuation",
    "Conversation",
    "Document",
    "Example",
    "ExampleKind",
    "Preference",
    "Turn",
]

ExampleKind = Literal["conversation", "continuation", "document", "preference"]


@dataclass(frozen=True, slots=True)
class Turn:
    """A message, and whether it is learned.

    Attributes:
        message: Who says what.
        has_loss: Whether its tokens carry loss; assistant turns do unless the row says no.
    """

    message: Message
    has_loss: bool


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that the model's chat template renders; `tools` in OpenAI's form."""

    turns: tuple[Turn, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Continuation:
    """A plain prompt and how it goes on, without a template; the completion is learned."""

    prompt: str
    completion: str


@dataclass(frozen=True, slots=True)
class Document:
    """Text of which every token is learned."""

    text: str


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt with a better and a worse answer.

    Attributes:
        prompt: Messages before both answers; for plain strings one user message.
        chosen: The better answer's messages.
        rejected: The worse one's.
        tools: As in a conversation.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()


Example = Conversation | Continuation | Document | Preference
