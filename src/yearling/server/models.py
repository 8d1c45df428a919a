"""The models a server serves, each with its engine, and turning input into prompts."""

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from yearling.core.errors import (
    ContextLengthError,
    ModelNotFoundError,
    RequestError,
    TemplateError,
    UnsupportedError,
)
from yearling.core.messages import Message
from yearling.models.chat_template import ChatTemplate
from yearling.models.tokenizer import Tokenizer
from yearling.models.tool_turns import in_words, knows_calls
from yearling.server.errors import HttpError
from yearling.server.generation import Admission
from yearling.server.limits import Limits
from yearling.serving.async_engine import AsyncEngine
from yearling.serving.request import EngineRequest, GenerationRequest
from yearling.wire.openai.errors import ErrorReply

__all__ = ["ModelFiles", "ServedModel", "ServedModels"]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model was read from.

    Attributes:
        format: Of its weights.
        family: Which describes it; what config.json calls it where none does.
        num_bytes: Size of its weights as they are stored.
        num_parameters: None where no family describes the model.
    """

    format: Literal["gguf", "safetensors"]
    family: str
    num_bytes: int
    num_parameters: int | None


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model: what the server itself needs of it, and its engine.

    Attributes:
        name: As clients call it.
        tokenizer: Text to ids and back.
        chat_template: None when the model has none and cannot chat.
        context: Tokens of prompt and answer together; of one text in an encoder.
        fingerprint: Changes when the answers to equal seeds may.
        chat_stop: Texts that end an answer in a chat, beside the model's own end.
        embedding_width: Numbers of a text's vector in an encoder; None in a model that generates.
        end_token_ids: Ids that end an answer.
        reads_prompts_apart: Whether a prompt's tokens are computed otherwise than an answer's.
        base: Name of the model that this is an adapter of; None when it is a model itself.
        files: What it was read from, its base where it is an adapter; None where that is not known.
        created: Seconds since 1970.
    """

    name: str
    tokenizer: Tokenizer
    chat_template: ChatTemplate | None
    context: int
    engine: AsyncEngine
    admission: Admission
    limits: Limits
    fingerprint: str
    chat_stop: tuple[str, ...] = ()
    embedding_width: int | None = None
    end_token_ids: tuple[int, ...] = ()
    reads_prompts_apart: bool = False
    base: str | None = None
    files: ModelFiles | None = None
    created: int = field(default_factory=lambda: int(time.time()))

    def requests(self, requests: Sequence[EngineRequest]) -> list[EngineRequest]:
        """The same requests, of this model: an adapter's name it."""
        if self.base is None:
            return list(requests)
        return [
            replace(request, adapter=self.name)
            for request in requests
            if isinstance(request, GenerationRequest)  # an encoder has no adapters
        ]

    def encode_chat(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        add_generation_prompt: bool = True,
        parameter: str = "messages",
    ) -> list[int]:
        """Render a conversation into token ids.

        Args:
            messages: The conversation.
            tools: Function definitions in OpenAI's form. A template that writes calls in our form
                gets them; any other model is told of them in words.
            add_generation_prompt: Whether to end with the start of an assistant's turn.
            parameter: What the request calls the conversation.

        Raises:
            UnsupportedError: the model has no chat template, or is an encoder.
            ContextLengthError: the bytes alone show that it cannot fit.
            TemplateError: the template refuses the conversation.
        """
        self.check_generates()
        if self.chat_template is None:
            raise UnsupportedError(
                f"{self.name} has no chat template: it completes text, at /v1/completions.",
                parameter=parameter,
            )
        num_bytes = sum(len(message.text.encode()) for message in messages)
        calls = (call for message in messages for call in message.tool_calls)
        num_bytes += sum(len(call.arguments.encode()) for call in calls)
        self._check_bytes(num_bytes + len(json.dumps(tools)), parameter)
        has_turns = any(message.tool_calls or message.role == "tool" for message in messages)
        is_told = (tools or has_turns) and not self._can_show(tools)
        try:
            return self.chat_template.encode(
                in_words(messages, tools) if is_told else messages,
                tools=None if is_told else tools or None,
                add_generation_prompt=add_generation_prompt,
            )
        except TemplateError:
            if not is_told or not tools:
                raise
        # A template without a place for a system message refuses one.
        told = in_words(messages, tools, has_system=False)
        return self.chat_template.encode(told, add_generation_prompt=add_generation_prompt)

    def _can_show(self, tools: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the template has a place for tools in our form, or for calls where none are."""
        assert self.chat_template is not None
        source = self.chat_template.source
        return knows_calls(source) if tools else "tool_calls" in source

    def encode_text(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Tokenize raw text; control tokens written in it count, but not for an encoder.

        Raises:
            ContextLengthError: the bytes alone show that it cannot fit.
        """
        self._check_bytes(len(text.encode()), "prompt")
        if self.embedding_width is not None:
            return self.tokenizer.encode(text, add_special=add_special_tokens)
        add_bos = add_special_tokens and self.tokenizer.adds_bos
        return self.tokenizer.encode(text, parse_special=True, add_bos=add_bos)

    def encode_input(self, text: str, parameter: str) -> list[int]:
        """Tokenize a text for its vector; special tokens come around it, never out of it.

        Raises:
            ContextLengthError: the bytes alone show that it cannot fit.
        """
        self._check_bytes(len(text.encode()), parameter)
        return self.tokenizer.encode(text, add_special=True)

    def check_generates(self) -> None:
        """Refuse to generate with an encoder.

        Raises:
            UnsupportedError: the model is one.
        """
        if self.embedding_width is not None:
            raise UnsupportedError(
                f"{self.name} is an encoder: it turns texts into vectors, at /v1/embeddings, and "
                f"generates nothing. Name a model that does; GET /v1/models lists them.",
                parameter="model",
            )

    def check_embeds(self) -> int:
        """Give the width of the model's vectors.

        Raises:
            UnsupportedError: the model generates text.
        """
        if self.embedding_width is None:
            raise UnsupportedError(
                f"{self.name} generates text and gives no vectors: name an encoder that is served "
                f"here, or start the server with one beside it, for example --model minilm.",
                parameter="model",
            )
        return self.embedding_width

    def check_ready(self) -> None:
        """Refuse work while the engine cannot take it.

        Raises:
            HttpError: 503, saying whether it is starting, restarting or beyond help.
        """
        if not self.engine.is_ready:
            raise HttpError(self.not_ready_reply())

    def check_takes_work(self) -> None:
        """Refuse work that is refused whatever it asks, before anything is done for it.

        Raises:
            HttpError: 503, as of `check_ready`.
            CapacityError: the queue is full.
        """
        self.check_ready()
        self.admission.check_open()

    def not_ready_reply(self) -> ErrorReply:
        """The answer while the engine cannot take requests."""
        state, why = self.engine.state, self.engine.error
        return ErrorReply(
            503,
            f"The model {self.name} is {state}" + (f": {why}" if why else "; try again soon."),
            "server_error",
            f"model_{state}",
            retry_after_seconds=None if state == "failed" else 1,
        )

    def _check_bytes(self, num_bytes: int, parameter: str) -> None:
        if num_bytes > self.limits.prompt_bytes_per_context_token * self.context:
            raise ContextLengthError(
                f"{parameter} holds {num_bytes} bytes of text, more than the context window of "
                f"{self.context} tokens takes. Shorten it.",
                parameter=parameter,
            )


class ServedModels:
    """The models of a server by name."""

    def __init__(self, models: Sequence[ServedModel], elsewhere: Collection[str] = ()) -> None:
        self._models = {model.name: model for model in models}
        self._elsewhere = frozenset(elsewhere)

    def add(self, model: ServedModel) -> None:
        """Serve another model.

        Raises:
            RequestError: one of that name is served already.
        """
        self.check_new(model.name)
        self._models[model.name] = model

    def check_new(self, name: str) -> None:
        """Refuse a name that is taken.

        Raises:
            RequestError: it is.
        """
        if name in self._models or name in self._elsewhere:
            raise RequestError(
                f"a model named {name!r:.80} is served here already: give another name.",
                parameter="lora_name",
            )

    def remove(self, name: str) -> None:
        """Serve a model no longer."""
        del self._models[name]

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models.values())

    def get(self, name: str) -> ServedModel:
        """Find a model.

        Raises:
            ModelNotFoundError: no such model is served.
            UnsupportedError: it is a backend's, and this route does not reach there.
        """
        if name in self._elsewhere:
            raise UnsupportedError(
                f"{name} is a model of another server: it answers at /v1/chat/completions, "
                "/v1/completions and /v1/embeddings.",
                parameter="model",
            )
        if name not in self._models:
            raise ModelNotFoundError(
                f"The model {name[:64]!r} is not served here; there is "
                f"{', '.join([*self._models, *sorted(self._elsewhere)])}."
            )
        return self._models[name]
