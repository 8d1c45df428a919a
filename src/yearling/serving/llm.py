"""The public Python API: load a model, chat, complete, stream, score."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeGuard, cast, overload

from pydantic import ValidationError

from yearling.core.errors import ConfigError, EngineError, RequestError, UnsupportedError
from yearling.core.messages import Message, parse_messages
from yearling.serving.admission import AdmissionLimits
from yearling.serving.beams import (
    Alternatives,
    Beam,
    alternatives_of,
    beam_search,
    no_beams,
    run_search,
)
from yearling.serving.detokenizer import Pieces, text_of
from yearling.serving.engine import Engine, EngineStats
from yearling.serving.model import (
    ModelOptions,
    load_executor,
    load_model,
    new_engine,
    quick_load,
)
from yearling.serving.request import (
    EmbeddingRequest,
    FinishReason,
    GenerationRequest,
    OutputEvent,
    PromptScore,
    SamplingParams,
    TokenLogprob,
    Usage,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from yearling.models.tokenizer import Tokenizer
    from yearling.serving.model import TextEncoder

__all__ = ["LLM", "GenerationResult"]

Prompt = str | Sequence[int]
Conversation = Sequence[Mapping[str, Any] | Message]


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer; `str(result)` and `print(result)` give its text.

    Attributes:
        text: The answer, without special tokens and without the stop string.
        tokens: Its token ids, the one that ended it included.
        finish_reason: `stop` for an end the model or a stop string set, `length` for a limit.
        usage: Tokens taken.
        logprobs: One per token, when `SamplingParams.logprobs` asked for them.
        prompt_score: When `SamplingParams.prompt_logprobs` asked for it.
        logprob: Log-probability of the whole answer in nats, after `beam_search`.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_score: PromptScore | None = None
    logprob: float | None = None

    def __str__(self) -> str:
        """The text."""
        return self.text


class LLM:
    """A language model in this process.

    Calls may come from several threads; whatever they ask at the same time runs as one batch.
    Answers never depend on what else runs.

    >>> from yearling import LLM, SamplingParams  # doctest: +SKIP
    >>> with LLM("smollm2") as llm:  # doctest: +SKIP
    ...     print(llm.chat([{"role": "user", "content": "Hi"}], SamplingParams(max_tokens=64)))
    """

    def __init__(
        self, path: str | Path, *, executor: str = "auto", weights: str = "auto", **options: Any
    ) -> None:
        """Load a model.

        Args:
            path: Name in the store, GGUF file, Hugging Face folder, or `hf:ORG/NAME`; a known
                name that is not in the store yet is pulled first.
            executor: `native`; `torch` or `transformers`, which need the train extra; or `auto`:
                native, and transformers for a folder that no family covers.
            weights: `auto` keeps the file's precision; or `float32`, `float16`, `int8`, `int4`.
            options: Other fields of `ModelOptions`, for example `context=2048`.

        Raises:
            ConfigError: an option is unknown or does not fit the model.
            ModelNotFoundError: nothing of that name is there.
            DownloadError: the model cannot be pulled.
            ModelFormatError: its files are malformed or of an unsupported kind.
            UnsupportedError: the executor is not installed, or cannot run such a model.
        """
        from yearling.models.store import ensure

        how = _options(executor=executor, weights=weights, **options)
        with ExitStack() as opened, quick_load(ensure(str(path)), how):
            self._model = load_model(path, how)
            opened.callback(self._model.checkpoint.close)
            self._executor = load_executor(self._model)
            opened.callback(self._executor.close)
            self._engine = new_engine(self._model, self._executor)
            opened.pop_all()
        self._lock = threading.Lock()
        self._inboxes: dict[str, deque[OutputEvent]] = {}
        self._abandoned: deque[str] = deque()
        self._request_ids = count()
        self._is_closed = False

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._engine.limits.context

    def chat(
        self,
        messages: Conversation,
        params: SamplingParams | None = None,
        *,
        adapter: str = "",
    ) -> GenerationResult:
        """Answer a conversation.

        Args:
            messages: Dictionaries with `role` and `content`, as OpenAI's API takes them.
            params: How to choose tokens; by default at temperature 1 until the model stops.
            adapter: Name of a loaded adapter; empty takes the model itself.

        Raises:
            RequestError: a message is malformed, or names something this model cannot do.
            ContextLengthError: conversation and answer do not fit the context.
            TemplateError: the model's chat template refuses the conversation.
            UnsupportedError: the model has no chat template.
        """
        prompt = self._encode_chat(messages)
        return self._answer([prompt], self._chat_params(params), [adapter])[0]

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is also a sequence of strings
        self, prompts: Prompt, params: SamplingParams | None = None, *, adapter: str = ""
    ) -> GenerationResult: ...

    @overload
    def generate(
        self,
        prompts: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        adapter: str | Sequence[str] = "",
    ) -> list[GenerationResult]: ...

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        adapter: str | Sequence[str] = "",
    ) -> GenerationResult | list[GenerationResult]:
        """Continue text or token ids, without a chat template.

        The text of an answer continues its prompt, so it often begins with a space. Special
        tokens written in a prompt become those tokens: quote nobody else's text in one.

        Args:
            prompts: One prompt, or several, which run as one batch; a prompt is a string or a
                sequence of token ids.
            params: How to choose tokens, for all of them.
            adapter: Name of a loaded adapter for all of them, or one for each; empty takes the
                model itself.

        Returns:
            One result for one prompt; for a list a list in the same order.

        Raises:
            RequestError: a prompt is empty or holds ids the model does not have.
            ContextLengthError: prompt and answer do not fit the context.
        """
        several = [prompts] if _is_prompt(prompts) else cast("Sequence[Prompt]", prompts)
        adapters = [adapter] * len(several) if isinstance(adapter, str) else adapter
        if len(adapters) != len(several):
            raise RequestError(
                f"{len(adapters)} adapters for {len(several)} prompts: give one for each, or one "
                "for all.",
                parameter="adapter",
            )
        results = self._answer([self._encode(prompt) for prompt in several], params, adapters)
        return results[0] if _is_prompt(prompts) else results

    def stream(
        self,
        prompt: Prompt | Conversation,
        params: SamplingParams | None = None,
        *,
        adapter: str = "",
    ) -> Iterator[str]:
        """Yield an answer in pieces of text as they come; leaving the loop ends the answer.

        Args:
            prompt: A string or token ids to continue, or messages to answer.
            params: How to choose tokens.
            adapter: Name of a loaded adapter; empty takes the model itself.

        Raises:
            RequestError: as `chat` and `generate` do.
        """
        if _is_prompt(prompt):
            tokens = self._encode(prompt)
        else:
            tokens = self._encode_chat(cast("Conversation", prompt))
            params = self._chat_params(params)
        for event in self._events([self._request(tokens, params, adapter)]):
            if event.text:
                yield event.text

    def beam_search(
        self,
        prompt: Prompt,
        *,
        width: int = 4,
        max_tokens: int = 64,
        length_penalty: float = 1.0,
        adapter: str = "",
    ) -> list[GenerationResult]:
        """Find the likeliest answers as wholes, best first: as many as the width.

        Args:
            prompt: A string or token ids to continue.
            width: Answers kept at a time, at most 10.
            max_tokens: Length of an answer at most.
            length_penalty: Answers are compared by their log-probability over their length to
                this power: above 0 prefers longer ones.
            adapter: Name of a loaded adapter; empty takes the model itself.

        Raises:
            RequestError: the width or the length is out of range, or as `generate` raises it.
            ContextLengthError: prompt and answer do not fit the context.
            UnsupportedError: the model reads prompts otherwise than answers.
        """
        if self._model.reads_prompts_apart:
            raise UnsupportedError(no_beams(self._model.name))
        tokens = self._encode(prompt)
        whole = SamplingParams(max_tokens=max(max_tokens, 1))
        self._engine.limits.check(GenerationRequest("beams", tokens, whole), 0)

        def ask(answers: Sequence[tuple[int, ...]]) -> list[Alternatives]:
            prompts = [[*tokens, *answer] for answer in answers]
            results = self._answer(prompts, alternatives_of(width), [adapter] * len(prompts))
            return [result.logprobs[0].top for result in results]

        search = beam_search(
            self._model.eos_token_ids,
            width=width,
            max_tokens=max_tokens,
            length_penalty=length_penalty,
        )
        return [self._beam_result(len(tokens), beam) for beam in run_search(search, ask)]

    def logits(self, ids: Sequence[int], num_prompt: int | None = None) -> "NDArray[np.float32]":
        """Logits of every position of a sequence: an array [T, V] in float32.

        Args:
            ids: The sequence.
            num_prompt: Leading ids that are its prompt, where that makes a difference: in models
                whose prompt tokens see each other or whose rotation depends on the length. None
                takes all of them.

        Raises:
            RequestError: the sequence is empty or holds ids the model does not have.
            ContextLengthError: the sequence is longer than the context.
            UnsupportedError: the model is an encoder.
        """
        tokens = [int(token) for token in ids]
        limits = AdmissionLimits(self._model.context, None, self._engine.limits.vocabulary)
        limits.check(GenerationRequest("logits", tokens, is_prompt_only=True), 0)
        with self._lock:
            self._check_open()
            return self._executor.logits(tokens, num_prompt)

    def embed(self, texts: Prompt | Sequence[Prompt]) -> "NDArray[np.float32]":
        """Vectors of texts, by an encoder.

        Special tokens written in a text stay text; those the encoder was trained to see around
        it are added. Token ids are taken as they are.

        Args:
            texts: One text, or several; a text is a string or a sequence of token ids.

        Returns:
            For one text its vector (E,), for a list an array (n, E) in the same order.

        Raises:
            UnsupportedError: the model generates text, and has no vectors.
            RequestError: a text is empty or holds ids the model does not have.
            ContextLengthError: a text is longer than the context.
        """
        several = [texts] if _is_prompt(texts) else cast("Sequence[Prompt]", texts)
        tokens = [self._encode_whole(text) for text in several]
        self._engine.limits.check(EmbeddingRequest("embed", tokens), 0)
        with self._lock:
            self._check_open()
            vectors = cast("TextEncoder", self._executor).embed(tokens)
        return vectors[0] if _is_prompt(texts) else vectors

    def tokenize(self, text: str, *, add_bos: bool = True) -> list[int]:
        """Token ids of a text, as `generate` would read it.

        Args:
            text: Special tokens written in it become those tokens.
            add_bos: Whether to begin with the start token, if the model's tokenizer does.

        Raises:
            UnsupportedError: the model came without a tokenizer.
        """
        tokenizer = self._tokenizer()
        return tokenizer.encode(text, parse_special=True, add_bos=add_bos and tokenizer.adds_bos)

    def detokenize(self, ids: Iterable[int], *, skip_special: bool = True) -> str:
        """Text of token ids.

        Raises:
            UnsupportedError: the model came without a tokenizer.
        """
        return self._tokenizer().decode([int(token) for token in ids], skip_special=skip_special)

    def load_adapter(self, name: str, folder: str | Path) -> None:
        """Load an adapter of low rank, to be named by requests; several may run in one batch.

        Args:
            name: By which requests name it.
            folder: In PEFT's format, as `yearling train` writes it.

        Raises:
            ConfigError: the name is taken.
            ModelError: it cannot be read, is of another model, or must be merged instead.
            UnsupportedError: the executor serves none.
        """
        with self._lock:
            self._check_open()
            self._engine.load_adapter(name, Path(folder))

    def unload_adapter(self, name: str) -> None:
        """Let no further request name an adapter.

        Raises:
            RequestError: there is none of that name.
        """
        with self._lock:
            self._check_open()
            self._engine.unload_adapter(name)

    def stats(self) -> EngineStats:
        """Counters and gauges of the engine."""
        return self._engine.stats()

    def close(self) -> None:
        """Free the model; harmless to repeat."""
        with self._lock:
            if not self._is_closed:
                self._is_closed = True
                self._executor.close()
                if isinstance(self._engine, Engine):
                    self._engine.close()
                self._model.checkpoint.close()

    def __enter__(self) -> Self:
        """Use as a context manager closes the model at the end."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def _answer(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams | None,
        adapters: Sequence[str],
    ) -> list[GenerationResult]:
        requests = [
            self._request(prompt, params, adapter)
            for prompt, adapter in zip(prompts, adapters, strict=True)
        ]
        events: dict[str, list[OutputEvent]] = {request.request_id: [] for request in requests}
        for event in self._events(requests):
            events[event.request_id].append(event)
        return [_result(events[request.request_id]) for request in requests]

    def _beam_result(self, num_prompt: int, beam: Beam) -> GenerationResult:
        tokenizer = self._model.tokenizer
        return GenerationResult(
            text="" if tokenizer is None else text_of(Pieces(tokenizer), beam.shown),
            tokens=beam.tokens,
            finish_reason="stop" if beam.is_ended else "length",
            usage=Usage(num_prompt, len(beam.tokens)),
            logprob=beam.logprob,
        )

    def _chat_params(self, params: SamplingParams | None) -> SamplingParams:
        """End an answer where its chat template's turns end, too."""
        return (params or SamplingParams()).stopping_at(self._model.chat_stop)

    def _request(
        self, prompt: list[int], params: SamplingParams | None, adapter: str
    ) -> GenerationRequest:
        request_id = f"llm-{next(self._request_ids)}"
        return GenerationRequest(request_id, prompt, params or SamplingParams(), adapter=adapter)

    def _events(self, requests: Sequence[GenerationRequest]) -> Iterator[OutputEvent]:
        """Admit requests together and yield their events, stepping the engine when none wait."""
        inbox: deque[OutputEvent] = deque()
        num_open = len(requests)
        try:
            with self._lock:
                self._check_open()
                for request in requests:
                    self._engine.add(request)
                    self._inboxes[request.request_id] = inbox
            while num_open:
                if not inbox:
                    self._step(inbox)
                    continue
                event = inbox.popleft()
                num_open -= event.finish_reason is not None
                if event.finish_reason == "error":
                    raise EngineError(event.error or "the request failed")
                yield event
        finally:
            self._abandoned.extend(request.request_id for request in requests)
            # Never waits: the collector may run this inside a step of the same thread.
            if self._lock.acquire(blocking=False):
                self._drop_abandoned()
                self._lock.release()

    def _step(self, inbox: deque[OutputEvent]) -> None:
        with self._lock:
            self._check_open()
            if inbox:  # another thread's step has filled it
                return
            self._drop_abandoned()
            for event in self._engine.step():
                waiting = self._inboxes.get(event.request_id)
                if waiting is not None:
                    waiting.append(event)

    def _drop_abandoned(self) -> None:
        while self._abandoned:
            request_id = self._abandoned.popleft()
            self._inboxes.pop(request_id, None)
            self._engine.cancel(request_id)

    def _encode(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenize(prompt)
        return [int(token) for token in prompt]

    def _encode_whole(self, text: Prompt) -> list[int]:
        if isinstance(text, str):
            return self._tokenizer().encode(text, add_special=True)
        return [int(token) for token in text]

    def _encode_chat(self, messages: Conversation) -> list[int]:
        template = self._model.chat_template
        if template is None:
            raise UnsupportedError(
                f"{self._model.name} has no chat template, so it cannot chat: name one "
                "(chat_template=, --chat-template) or use generate().",
                parameter="messages",
            )
        return template.encode(parse_messages(messages))

    def _tokenizer(self) -> "Tokenizer":
        if self._model.tokenizer is None:
            raise UnsupportedError(
                f"{self._model.name} came without a tokenizer: give token ids instead of text.",
                parameter="prompt",
            )
        return self._model.tokenizer

    def _check_open(self) -> None:
        if self._is_closed:
            raise EngineError(f"{self._model.name} was closed: make a new LLM to use it again.")


def _options(**values: Any) -> ModelOptions:
    try:
        # Nobody else's requests have to wait here, so a batch may be of any size.
        return ModelOptions(**{"max_waiting": None, **values})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"LLM({name}={first['input']!r}): {first['msg']}. "
            f"Options are {', '.join(ModelOptions.model_fields)}."
        ) from None


def _is_prompt(value: object) -> TypeGuard[Prompt]:
    """Whether this is one prompt rather than several, or messages."""
    if isinstance(value, str):
        return True
    return isinstance(value, Sequence) and bool(value) and isinstance(value[0], Integral)


def _result(events: Sequence[OutputEvent]) -> GenerationResult:
    final = events[-1]
    assert final.finish_reason is not None, "the last event is the final one"
    assert final.usage is not None, "a final event tells the usage"
    scores = [event.prompt_score for event in events if event.prompt_score is not None]
    return GenerationResult(
        text="".join(event.text for event in events),
        tokens=tuple(token for event in events for token in event.tokens),
        finish_reason=final.finish_reason,
        usage=final.usage,
        logprobs=tuple(logprob for event in events for logprob in event.logprobs),
        prompt_score=scores[0] if scores else None,
    )
