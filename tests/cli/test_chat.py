"""The conversation behind `yearling chat`, with a model that only listens."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from yearling.cli.chat import Conversation
from yearling.serving.request import SamplingParams


class Listener:
    """Keeps the messages it is asked, and answers in pieces."""

    def __init__(self, *, interrupts_after: int | None = None) -> None:
        self.asked: list[Any] = []
        self._interrupts_after = interrupts_after

    def stream(self, messages: Any, params: SamplingParams) -> Iterator[str]:
        self.asked.append([(message["role"], message["content"]) for message in messages])
        for index, piece in enumerate(("one ", "two ", "three")):
            if index == self._interrupts_after:
                os.kill(os.getpid(), signal.SIGINT)
            yield piece


def _conversation(listener: Any, system: str | None = None) -> Conversation:
    return Conversation(listener, SamplingParams(), system)


def test_conversation_keeps_its_history(capsys: pytest.CaptureFixture[str]) -> None:
    listener = Listener()
    conversation = _conversation(listener, system="Be brief.")
    conversation.answer("first")
    conversation.answer("second")
    assert capsys.readouterr().out == "one two three\n" * 2
    assert listener.asked[1] == [
        ("system", "Be brief."),
        ("user", "first"),
        ("assistant", "one two three"),
        ("user", "second"),
    ]


def test_starting_over_keeps_the_system_message() -> None:
    listener = Listener()
    conversation = _conversation(listener, system="Be brief.")
    conversation.answer("first")
    conversation.start_over()
    conversation.answer("second")
    assert listener.asked[1] == [("system", "Be brief."), ("user", "second")]


def test_interrupt_ends_the_answer_and_keeps_what_came(
    capsys: pytest.CaptureFixture[str],
) -> None:
    listener = Listener(interrupts_after=1)
    conversation = _conversation(listener)
    before = signal.getsignal(signal.SIGINT)
    conversation.answer("first")
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().out == "one two \n"
    conversation.answer("second")
    assert listener.asked[1][1] == ("assistant", "one two ")
