"""The content of an example: its hash, its texts, and the words of a text.

Ledger, split and filters ask the same questions of every kind of example; they are answered here.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

from yearling.core.messages import Message
from yearling.data.examples import Continuation, Conversation, Document, Example

__all__ = ["content_hash", "loose_hash", "num_turns", "texts_of", "words_of"]

# Han characters and kana are written without spaces, so each counts as a word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)


def content_hash(example: Example) -> bytes:
    """Give the SHA-256 of everything an example says, roles and loss flags included."""
    text = json.dumps(_values_of(example), separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).digest()


def loose_hash(example: Example) -> bytes:
    """Give the SHA-256 of an example's words; case, spaces and punctuation change nothing."""
    digest = hashlib.sha256()
    for text in texts_of(example):
        digest.update(" ".join(words_of(text) or [text]).encode())
        digest.update(b"\n")
    return digest.digest()


def texts_of(example: Example) -> Iterator[str]:
    """Give the texts of an example in their order: of each message, or prompt and completion.

    >>> list(texts_of(Continuation("1 + 1 =", " 2")))
    ['1 + 1 =', ' 2']
    """
    if isinstance(example, Document):
        yield example.text
    elif isinstance(example, Continuation):
        yield example.prompt
        yield example.completion
    else:
        for message in _messages_of(example):
            yield message.text
            yield from (call.arguments for call in message.tool_calls)


def words_of(text: str) -> list[str]:
    """Split a text into words without case and punctuation; a Chinese character is a word.

    >>> words_of("The first year, 元年!")
    ['the', 'first', 'year', '元', '年']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def num_turns(example: Example) -> int:
    """Count the messages of an example; documents and continuations are one turn."""
    return 1 if isinstance(example, Document | Continuation) else len(_messages_of(example))


def _messages_of(example: Example) -> Sequence[Message]:
    if isinstance(example, Conversation):
        return [turn.message for turn in example.turns]
    assert not isinstance(example, Document | Continuation), "have texts and no messages"
    return (*example.prompt, *example.chosen, *example.rejected)


def _values_of(example: Example) -> list[Any]:
    if isinstance(example, Document):
        return ["document", example.text]
    if isinstance(example, Continuation):
        return ["continuation", example.prompt, example.completion]
    tools = [json.dumps(tool, sort_keys=True) for tool in example.tools]
    if isinstance(example, Conversation):
        turns = [[*_message_values(turn.message), turn.has_loss] for turn in example.turns]
        return ["conversation", turns, tools]
    parts = (example.prompt, example.chosen, example.rejected)
    return ["preference", *([_message_values(one) for one in part] for part in parts), tools]


def _message_values(message: Message) -> list[Any]:
    calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
    return [message.role, message.text, message.name, calls, message.tool_call_id]
