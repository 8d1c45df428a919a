"""Scripted fakes show that the protocols can be met without an engine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.messages import ContentPart, Message
from yearling.core.protocols import ChatModel, RolloutModel, Scorer, TokenModel


class EchoChat:
    """Answers with the last message's text."""

    def complete(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        grammar: str | None = None,
    ) -> Message:
        return Message("assistant", (ContentPart(messages[-1].text),))


class CountingTokens:
    """Continues with the version of its weights."""

    version = "0"

    def generate(
        self,
        prompt: Sequence[int] | NDArray[np.float32],
        *,
        max_tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> tuple[int, ...]:
        return (int(self.version),) * max_tokens

    def update_weights(
        self, tensors: Iterable[tuple[str, NDArray[np.generic]]], *, version: str
    ) -> None:
        self.version = version

    def pause(self) -> None: ...

    def resume(self) -> None: ...


def ask(model: ChatModel, question: str) -> str:
    return model.complete([Message("user", (ContentPart(question),))]).text


def roll_out(model: RolloutModel) -> tuple[int, ...]:
    model.pause()
    model.update_weights([("w", np.zeros(1))], version="7")
    model.resume()
    return model.generate([1, 2], max_tokens=2)


def test_chat_model_is_met_by_a_scripted_fake() -> None:
    assert ask(EchoChat(), "Hi") == "Hi"
    assert isinstance(EchoChat(), ChatModel)


def test_rollout_model_serves_the_weights_it_was_given() -> None:
    assert roll_out(CountingTokens()) == (7, 7)


def test_protocols_tell_apart_who_promises_what() -> None:
    counting = CountingTokens()
    assert isinstance(counting, TokenModel)
    assert not isinstance(counting, Scorer)
    assert not isinstance(EchoChat(), TokenModel)
