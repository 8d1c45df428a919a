"""Engine events into OpenAI answers: one fold for streams and whole bodies alike.

Each event becomes pieces; a stream sends every piece as a chunk, a whole body joins them. So a
stream put together again is the whole body, by construction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from yearling.serving.request import FinishReason, OutputEvent, TokenLogprob, Usage
from yearling.serving.tool_calls import CallPiece, ToolCallReader, pieces_of
from yearling.wire.openai.chat import (
    ChatAnswer,
    call_chunk,
    chat_completion,
    content_chunk,
    finish_chunk,
    role_chunk,
    usage_chunk,
)
from yearling.wire.openai.completions import (
    CompletionAnswer,
    completion,
    completion_chunk,
    completion_usage_chunk,
)
from yearling.wire.openai.generation import AnswerHead
from yearling.wire.openai.logprobs import LegacyLogprobs, TokenBytes, chat_logprobs
from yearling.wire.openai.tools import call_object, new_call_id

__all__ = ["ChatFold", "CompletionFold", "EchoedPrompt", "TokenTexts", "shown_entries"]


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """What log-probabilities need of a tokenizer.

    Attributes:
        token_bytes: The raw bytes of an id.
        is_control: Whether an id is a control token, whose text no answer shows.
    """

    token_bytes: TokenBytes
    is_control: Callable[[int], bool]


@dataclass(slots=True)
class _Call:
    """A tool call while it grows."""

    id: str
    name: str
    arguments: list[str] = field(default_factory=list)

    def as_object(self) -> dict[str, Any]:
        return call_object(self.id, self.name, "".join(self.arguments))


@dataclass(slots=True)
class _Answer:
    """One choice while it grows."""

    text: list[str] = field(default_factory=list)
    calls: list[_Call] = field(default_factory=list)
    reader: ToolCallReader | None = None
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    token_logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason = "error"

    @property
    def is_calling(self) -> bool:
        """Whether it has calls, and all of them are whole."""
        return bool(self.calls) and self.reader is not None and not self.reader.is_cut

    def joined_logprobs(self) -> dict[str, Any] | None:
        """The lists of all pieces, key by key; None when nothing was reported."""
        if not self.logprobs:
            return None
        joined = dict(self.logprobs[0])
        for piece in self.logprobs[1:]:
            joined = {
                key: value if value is None else [*value, *piece[key]]
                for key, value in joined.items()
            }
        return joined


class _UsageSum:
    """Adds up usage: a prompt counts once, however many answers it gets."""

    def __init__(self, answers_per_prompt: int) -> None:
        self._answers_per_prompt = answers_per_prompt
        self._sum = Usage(0, 0)

    def add(self, index: int, usage: Usage) -> None:
        is_first = index % self._answers_per_prompt == 0
        self._sum = Usage(
            self._sum.prompt_tokens + is_first * usage.prompt_tokens,
            self._sum.completion_tokens + usage.completion_tokens,
            self._sum.cached_tokens + is_first * usage.cached_tokens,
        )

    def total(self) -> Usage:
        return self._sum


class ChatFold:
    """Folds the events of a chat completion's choices."""

    def __init__(
        self,
        head: AnswerHead,
        *,
        num_choices: int,
        token_texts: TokenTexts | None,
        has_tools: bool = False,
    ) -> None:
        """Start an answer; `token_texts` only when log-probabilities were asked for."""
        self._head = head
        self._token_texts = token_texts
        self._answers = [
            _Answer(reader=ToolCallReader() if has_tools else None) for _ in range(num_choices)
        ]
        self._usage = _UsageSum(num_choices)

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first event: the role of each choice."""
        return (role_chunk(self._head, index) for index in range(len(self._answers)))

    def event(self, index: int, event: OutputEvent) -> Iterator[dict[str, Any]]:
        """Chunks for an event; must be exhausted."""
        pieces, logprobs = self.add(index, event)
        if logprobs is not None and not pieces:
            pieces = [CallPiece()]
        for piece in pieces:
            if piece.call is None:
                yield content_chunk(self._head, index, piece.text, logprobs)
            else:
                yield call_chunk(self._head, index, self._call_delta(index, piece), logprobs)
            logprobs = None  # they stand in one chunk
        if event.finish_reason is not None:
            is_calling = self._answers[index].is_calling
            yield finish_chunk(self._head, index, event.finish_reason, is_calling=is_calling)

    def closing(self) -> Iterator[dict[str, Any]]:
        """Chunks after the last event: usage, when it was asked for."""
        if self._head.has_usage_chunk:
            yield usage_chunk(self._head, self._usage.total())

    def add(self, index: int, event: OutputEvent) -> tuple[list[CallPiece], dict[str, Any] | None]:
        """Take an event in, and give the pieces and the log-probabilities it brought."""
        answer = self._answers[index]
        pieces = pieces_of(event, answer.reader)
        for piece in pieces:
            if piece.call is None:
                answer.text.append(piece.text)
            elif piece.name is not None:
                answer.calls.append(_Call(new_call_id(), piece.name))
            else:
                answer.calls[piece.call].arguments.append(piece.arguments)
        _note_end(answer, self._usage, index, event)
        if self._token_texts is None:
            return pieces, None
        entries = shown_entries(event, self._token_texts)
        if not entries:
            return pieces, None
        logprobs = chat_logprobs(entries, self._token_texts.token_bytes)
        answer.logprobs.append(logprobs)
        return pieces, logprobs

    def body(self) -> dict[str, Any]:
        """The whole answer, after the last event."""
        answers = [
            ChatAnswer(
                "".join(answer.text),
                answer.finish_reason,
                self._logprobs(answer),
                [call.as_object() for call in answer.calls],
                is_calling=answer.is_calling,
            )
            for answer in self._answers
        ]
        return chat_completion(self._head, answers, self._usage.total())

    def _call_delta(self, index: int, piece: CallPiece) -> dict[str, Any]:
        assert piece.call is not None
        if piece.name is None:
            return {"index": piece.call, "function": {"arguments": piece.arguments}}
        call = self._answers[index].calls[piece.call]
        return {"index": piece.call, **call_object(call.id, call.name, "")}

    def _logprobs(self, answer: _Answer) -> dict[str, Any] | None:
        if self._token_texts is None:
            return None
        return answer.joined_logprobs() or {"content": [], "refusal": None}


@dataclass(frozen=True, slots=True)
class EchoedPrompt:
    """A prompt as `echo` and `text_offset` need it.

    Attributes:
        text: As the client gave it, or decoded from its ids.
        tokens: Its ids.
    """

    text: str
    tokens: Sequence[int]


class CompletionFold:
    """Folds the events of a text completion's choices, prompt by prompt."""

    def __init__(
        self,
        head: AnswerHead,
        prompts: Sequence[EchoedPrompt],
        *,
        is_echoed: bool,
        num_choices: int,
        num_returned: int,
        num_logprobs: int | None,
        token_bytes: TokenBytes,
    ) -> None:
        """Start an answer with `num_choices` choices per prompt, of which the likeliest come."""
        self._head = head
        self._is_echoed = is_echoed
        self._num_choices = num_choices
        self._num_returned = num_returned
        self._prompts = [prompt for prompt in prompts for _ in range(num_choices)]
        self._answers = [_Answer() for _ in self._prompts]
        self._usage = _UsageSum(num_choices)
        self._legacy = [
            LegacyLogprobs(
                token_bytes,
                first_offset=0 if is_echoed else len(prompt.text),
                has_top=num_logprobs > 0,
            )
            for prompt in self._prompts
            if num_logprobs is not None
        ]

    def opening(self) -> Iterator[dict[str, Any]]:
        """Chunks before the first event: none, since an echo waits for its scores."""
        return iter(())

    def event(self, index: int, event: OutputEvent) -> Iterator[dict[str, Any]]:
        """Chunks for an event; must be exhausted."""
        text, logprobs = self.add(index, event)
        if text or logprobs is not None or event.finish_reason is not None:
            yield completion_chunk(self._head, index, text, logprobs, event.finish_reason)

    def closing(self) -> Iterator[dict[str, Any]]:
        """Chunks after the last event: usage, when it was asked for."""
        if self._head.has_usage_chunk:
            yield completion_usage_chunk(self._head, self._usage.total())

    def add(self, index: int, event: OutputEvent) -> tuple[str, dict[str, Any] | None]:
        """Take an event in, and give the text and log-probabilities it adds to its choice."""
        answer, prompt = self._answers[index], self._prompts[index]
        is_first = not answer.text
        text = prompt.text + event.text if is_first and self._is_echoed else event.text
        answer.text.append(text)
        _note_end(answer, self._usage, index, event)
        answer.token_logprobs += [entry.logprob for entry in event.logprobs]
        if not self._legacy:
            return text, None
        tokens: list[int] = []
        entries: list[TokenLogprob | None] = []
        if event.prompt_score is not None:
            tokens += prompt.tokens
            entries += event.prompt_score.tokens
        # The token that ended the answer too: harnesses cut off what was generated by its place.
        tokens += [entry.token for entry in event.logprobs]
        entries += event.logprobs
        if not tokens:
            return text, None
        logprobs = self._legacy[index].piece(tokens, entries)
        answer.logprobs.append(logprobs)
        return text, logprobs

    def body(self) -> dict[str, Any]:
        """The whole answer, after the last event."""
        answers = [
            CompletionAnswer(
                "".join(self._answers[index].text),
                self._answers[index].finish_reason,
                self._logprobs(index, self._answers[index]),
            )
            for index in self._returned()
        ]
        return completion(self._head, answers, self._usage.total())

    def _returned(self) -> Iterator[int]:
        """All answers in order, or the likeliest of each prompt, the best first."""
        for first in range(0, len(self._answers), self._num_choices):
            made = range(first, first + self._num_choices)
            if self._num_returned < self._num_choices:
                yield from sorted(made, key=self._unlikeliness)[: self._num_returned]
            else:
                yield from made

    def _unlikeliness(self, index: int) -> float:
        values = self._answers[index].token_logprobs
        return -sum(values) / len(values) if values else 0.0

    def _logprobs(self, index: int, answer: _Answer) -> dict[str, Any] | None:
        if not self._legacy:
            return None
        return answer.joined_logprobs() or self._legacy[index].piece([], [])


def _note_end(answer: _Answer, usage: _UsageSum, index: int, event: OutputEvent) -> None:
    if event.finish_reason is not None:
        answer.finish_reason = event.finish_reason
    if event.usage is not None:
        usage.add(index, event.usage)


def shown_entries(event: OutputEvent, texts: TokenTexts) -> tuple[TokenLogprob, ...]:
    """Log-probabilities of the tokens that are part of the answer: not of what ended it."""
    entries = event.logprobs
    if event.finish_reason == "stop" and entries and texts.is_control(entries[-1].token):
        return entries[:-1]
    return entries
