"""Driving an engine by hand: requests in, collected answers out."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from fake_executor import FakeExecutor, next_token
from fake_tokenizer import ByteTokenizer

from yearling.serving.engine import Engine, EngineConfig
from yearling.serving.request import GenerationRequest, OutputEvent, SamplingParams

_names = count()


def make_engine(
    executor: FakeExecutor | None = None, *, context: int = 4096, **config: Any
) -> Engine:
    """An engine over the fake executor and the byte tokenizer."""
    return Engine(
        executor or FakeExecutor(),
        ByteTokenizer(),
        context=context,
        eos_token_ids=(256,),
        config=EngineConfig(**config),
        vocabulary=258,
    )


def make_request(prompt: Iterable[int], *, salt: str = "", **sampling: Any) -> GenerationRequest:
    """A greedy request with a name of its own."""
    params = SamplingParams(**{"temperature": 0.0, "max_tokens": 16, **sampling})
    return GenerationRequest(f"request-{next(_names)}", list(prompt), params, salt=salt)


def true_answer(prompt: Iterable[int], num_tokens: int, vocabulary: int = 256) -> list[int]:
    """What the fake model says, computed without any cache."""
    tokens = list(prompt)
    start = len(tokens)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens, vocabulary))
    return tokens[start:]


@dataclass
class Answer:
    """Everything told about one request."""

    events: list[OutputEvent] = field(default_factory=list)

    @property
    def tokens(self) -> list[int]:
        """All token ids."""
        return [token for event in self.events for token in event.tokens]

    @property
    def text(self) -> str:
        """All text."""
        return "".join(event.text for event in self.events)

    @property
    def finals(self) -> list[OutputEvent]:
        """Events with a finish reason."""
        return [event for event in self.events if event.finish_reason is not None]

    @property
    def final(self) -> OutputEvent:
        """The one final event, which is also the last."""
        assert len(self.finals) == 1, self.events
        assert self.events[-1] is self.finals[0], self.events
        return self.events[-1]


def drive(engine: Engine, *requests: GenerationRequest, max_steps: int = 10_000) -> list[Answer]:
    """Add all requests, step until nothing is left, and return the answers in order."""
    answers = {request.request_id: Answer() for request in requests}
    for request in requests:
        engine.add(request)
    for _ in range(max_steps):
        if not engine.has_work:
            break
        for event in engine.step():
            if event.request_id in answers:
                answers[event.request_id].events.append(event)
    assert not engine.has_work, f"still busy after {max_steps} steps"
    return list(answers.values())
