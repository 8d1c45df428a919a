"""Pairs of a better and a worse answer, in the ways that data sets write them."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from yearling.core.errors import DataError
from yearling.core.messages import Message
from yearling.data.columns import Columns
from yearling.data.examples import Preference, Turn
from yearling.data.turns import read_tools, read_turns, spoken

__all__ = ["read_preference"]

Messages = tuple[Message, ...]

_DIALOGUE = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")
_SPEAKERS = {"Human": "user", "Assistant": "assistant"}


def read_preference(columns: Columns) -> Preference:
    """Read a pair; answers may repeat the prompt, which is then taken off.

    Raises:
        DataError: an answer is missing, empty, or equal to the other.
    """
    prompt = _prompt(columns)
    if columns.has("rejected"):
        chosen = _answer(columns, "chosen")
        rejected = _answer(columns, "rejected")
    elif columns.has("rejected_messages"):
        prompt, chosen = (), prompt
        rejected = _answer(columns, "rejected_messages")
    else:
        prompt, chosen = _chosen_of_conversation(prompt, columns)
        rejected = _answer(columns, "rejected_response")
    prompt, chosen, rejected = _without_prompt(prompt, chosen, rejected)
    if chosen == rejected:
        raise DataError("the chosen and the rejected answer are equal: nothing can be learned.")
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        if not answer or answer[0].role != "assistant":
            raise DataError(f"the {name} answer must begin with an assistant message of its own.")
    if not prompt:
        raise DataError(f"there is no prompt before the answers; the row has {columns.found()}.")
    return Preference(prompt, chosen, rejected, read_tools(columns))


def _prompt(columns: Columns) -> Messages:
    """Messages before the answers, as far as they have columns of their own."""
    system = columns.optional_text("system")
    begun = _messages((spoken("system", system),), "system") if system else ()
    for name in ("messages", "conversations", "prompt", "question", "query"):
        if columns.has(name):
            _, value = columns.take(name)
            if isinstance(value, str) and name not in ("messages", "conversations"):
                return begun + _spoken_or_dialogue(value, "user", name)
            return begun + _messages(read_turns(value, name, columns), name)
    if columns.has("instruction"):
        parts = (columns.text("instruction"), columns.optional_text("input", "context"))
        return (*begun, spoken("user", "\n".join(part for part in parts if part)).message)
    return begun


def _answer(columns: Columns, name: str) -> Messages:
    _, value = columns.take(name)
    if isinstance(value, str):
        return _spoken_or_dialogue(columns.text(name), "assistant", name)
    value = [value] if isinstance(value, Mapping) else value
    return _messages(read_turns(value, name, columns), name)


def _chosen_of_conversation(prompt: Messages, columns: Columns) -> tuple[Messages, Messages]:
    """Find the better answer beside a `rejected_response`: a column, or the last message."""
    if columns.has("response", "answer", "completion"):
        text = columns.text("response", "answer", "completion")
        return prompt, (spoken("assistant", text).message,)
    return prompt[:-1], prompt[-1:]


def _spoken_or_dialogue(text: str, role: str, name: str) -> Messages:
    """Read a text as one message, or as a dialogue where it is written as one."""
    parts = _DIALOGUE.split(text)
    if len(parts) == 1 or parts[0].strip():
        return (spoken(role, text).message,)
    speakers, said = parts[1::2], parts[2::2]
    turns = tuple(
        spoken(_SPEAKERS[who], what.strip())
        for who, what in zip(speakers, said, strict=True)
        if what.strip()
    )
    return _messages(turns, name)


def _messages(turns: Sequence[Turn], name: str) -> Messages:
    for turn in turns:
        if turn.has_loss != (turn.message.role == "assistant"):
            raise DataError(f"{name}: `loss` has no meaning in a pair of answers.")
    return tuple(turn.message for turn in turns)


def _without_prompt(prompt: Messages, chosen: Messages, rejected: Messages) -> tuple[Any, ...]:
    """Move what both answers begin with to the prompt."""
    shared = 0
    for better, worse in zip(chosen, rejected, strict=False):
        if better != worse:
            break
        shared += 1
    repeated = chosen[:shared]
    # An answer that repeats the prompt may also repeat a system message that stands before it.
    if repeated[: len(prompt)] == prompt or prompt[-len(repeated) :] == repeated:
        prompt = repeated if len(repeated) > len(prompt) else prompt
    else:
        prompt = prompt + repeated
    return prompt, chosen[shared:], rejected[shared:]
