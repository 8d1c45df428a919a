"""Messages to prompts: the one renderer for serving, training and evaluation.

A template is a program that came with a model file. It runs in a process of its own, under
limits of time, memory and output (`template_worker`), in the environment transformers uses.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from yearling.core.errors import RequestError, TemplateError, UnsupportedError
from yearling.core.messages import Message, ToolCall
from yearling.models.special_text import Marks, SpecialText
from yearling.models.template_process import template_process
from yearling.models.tokenizer import Tokenizer

__all__ = ["ChatTemplate", "EncodedPrompt"]

_MAX_TEMPLATE_BYTES = 64 << 10
_FREE_OUTPUT_CHARACTERS = 64 << 10
_MAX_OUTPUT_RATIO = 4


@dataclass(frozen=True, slots=True)
class EncodedPrompt:
    """What a template made of a conversation.

    Attributes:
        parts: Text and ids of the control tokens that cut it; never two texts together, and
            none that is empty.
        ids: The tokens of all of it.
    """

    parts: tuple[str | int, ...]
    ids: tuple[int, ...]

    def parts_after(self, start: "EncodedPrompt") -> tuple[str | int, ...] | None:
        """Give what follows the parts of another prompt, or None where it begins otherwise.

        >>> EncodedPrompt((7, "Hi there", 8), ()).parts_after(EncodedPrompt((7, "Hi"), ()))
        (' there', 8)
        """
        count = len(start.parts)
        if count == 0:
            return self.parts
        own, last = self.parts[:count], start.parts[-1]
        if len(own) < count or own[:-1] != start.parts[:-1]:
            return None
        rest = self.parts[count:]
        if own[-1] == last:
            return rest
        if isinstance(last, int) or isinstance(own[-1], int) or not own[-1].startswith(last):
            return None
        return (own[-1][len(last) :], *rest)


class ChatTemplate:
    """A model's chat template with the tokenizer its prompts are for.

    Attributes:
        source: The template in Jinja's language.
    """

    def __init__(
        self,
        source: str,
        tokenizer: Tokenizer,
        *,
        bos_text: str | None = None,
        eos_text: str | None = None,
    ) -> None:
        """Take a template; it is compiled when it is first used.

        Args:
            source: The template, at most 64 KiB.
            tokenizer: Encodes what the template writes.
            bos_text: Value of `bos_token`; None takes the tokenizer's.
            eos_text: Value of `eos_token`; None takes the tokenizer's.

        Raises:
            TemplateError: the template is too large.
        """
        size = len(source.encode(errors="surrogatepass"))
        if size > _MAX_TEMPLATE_BYTES:
            raise TemplateError(
                f"the chat template has {size} bytes; at most {_MAX_TEMPLATE_BYTES} are run."
            )
        self.source = source
        self._tokenizer = tokenizer
        self._special_text = SpecialText(tokenizer.special_tokens)
        self._named_tokens = {
            "bos_token": bos_text or _text_of(tokenizer, tokenizer.bos_id),
            "eos_token": eos_text or _text_of(tokenizer, tokenizer.eos_id),
        }

    def prepare(self) -> None:
        """Start the rendering process now, so that the first request need not wait for it."""
        template_process.start()

    @cached_property
    def supports_tools(self) -> bool:
        """Whether the template reads `tools`.

        Raises:
            TemplateError: the template cannot be parsed.
        """
        return "tools" in template_process.ask({"source": self.source})["names"]

    @cached_property
    def template_hash(self) -> str:
        """SHA-256 of template and tokenizer: equal hashes turn equal messages into equal ids."""
        return sha256((self.source + "\0" + self._tokenizer.content_hash).encode()).hexdigest()

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """Write the prompt as text, for reading; `encode` is what a model should get.

        Args:
            messages: The conversation.
            tools: Function definitions in OpenAI's form.
            add_generation_prompt: Whether to end with the start of an assistant's turn.

        Raises:
            TemplateError: the template refuses the messages, fails, or takes too much.
            UnsupportedError: the template has no place for tools, or for calls of them.
        """
        return self._run(self._variables(messages, tools), add_generation_prompt)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Turn a conversation into the token ids a model expects.

        Control tokens come from the template alone. Where a message or tool holds the text of
        one, marks take its place while the template runs, and the text is put back as plain
        text; otherwise the ids are those of transformers' `apply_chat_template`.

        Args:
            messages: The conversation.
            tools: Function definitions in OpenAI's form.
            add_generation_prompt: Whether to end with the start of an assistant's turn.

        Raises:
            TemplateError: the template refuses the messages, fails, or takes too much.
            UnsupportedError: the template has no place for tools, or for calls of them.
            RequestError: a text cannot be encoded.
        """
        marks, text = self._run_marked(messages, tools, add_generation_prompt)
        return self._ids(marks, text)

    def encode_prompt(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> EncodedPrompt:
        """Turn a conversation into the same ids as `encode` does, and say what they stand for.

        Training needs both: the parts tell what a template wrote, whatever tokens it became.

        Args:
            messages: The conversation.
            tools: Function definitions in OpenAI's form.
            add_generation_prompt: Whether to end with the start of an assistant's turn.

        Raises:
            TemplateError: the template refuses the messages, fails, or takes too much.
            UnsupportedError: the template has no place for tools, or for calls of them.
            RequestError: a text cannot be encoded.
        """
        marks, text = self._run_marked(messages, tools, add_generation_prompt)
        return EncodedPrompt(_joined(marks.parts(text)), tuple(self._ids(marks, text)))

    def _run_marked(
        self,
        messages: Sequence[Message],
        tools: Sequence[Mapping[str, Any]] | None,
        add_generation_prompt: bool,
    ) -> tuple[Marks, str]:
        """Run the template with marks in the place of special-token text from outside."""
        marks = Marks(self._special_text)
        variables = self._variables(messages, tools)
        protected = {
            **variables,
            "messages": [marks.protect_message(message) for message in variables["messages"]],
            "tools": marks.protect(variables["tools"]),
        }
        return marks, self._run(protected, add_generation_prompt)

    def _ids(self, marks: Marks, text: str) -> list[int]:
        if not marks.literals:
            return self._tokenizer.encode(text, parse_special=True)
        return self._tokenizer.encode_parts(marks.parts(text))

    def _run(self, variables: dict[str, Any], add_generation_prompt: bool) -> str:
        given = {key: text for key, text in self._named_tokens.items() if text is not None}
        size = len(json.dumps(variables, ensure_ascii=False))
        answer = template_process.ask(
            {
                "source": self.source,
                "variables": {
                    **given,
                    **variables,
                    "add_generation_prompt": add_generation_prompt,
                },
                "limit": _MAX_OUTPUT_RATIO * size + _FREE_OUTPUT_CHARACTERS,
            }
        )
        text: str = answer["text"]
        return text

    def _variables(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None
    ) -> dict[str, Any]:
        if tools and not self.supports_tools:
            raise UnsupportedError(
                "this model's chat template has no place for tools; send the request without "
                "them or choose a model that was trained to call tools.",
                parameter="tools",
            )
        return {
            "messages": [self._message(message, index) for index, message in enumerate(messages)],
            "tools": [dict(tool) for tool in tools] if tools else None,
            "documents": None,
        }

    def _message(self, message: Message, index: int) -> dict[str, Any]:
        where = f"messages[{index}]"
        self._check_tool_turn(message, where)
        role: str = message.role
        if role == "developer" and "developer" not in self.source:
            role = "system"  # OpenAI's newer name of the same role
        result: dict[str, Any] = {"role": role, "content": message.text}
        if message.tool_calls:
            result["tool_calls"] = [
                _tool_call(call, f"{where}.tool_calls[{position}]")
                for position, call in enumerate(message.tool_calls)
            ]
        if message.name is not None:
            result["name"] = message.name
        if message.tool_call_id is not None:
            result["tool_call_id"] = message.tool_call_id
        return result

    def _check_tool_turn(self, message: Message, where: str) -> None:
        field = "tool_calls" if message.tool_calls else "role" if message.role == "tool" else None
        word = "tool_calls" if field == "tool_calls" else "tool"
        if field is not None and word not in self.source:
            raise UnsupportedError(
                f"{where}.{field}: this model's chat template has no place for tool calls and "
                "their results; they would be lost without a trace.",
                parameter=f"{where}.{field}",
            )


def _text_of(tokenizer: Tokenizer, token_id: int | None) -> str | None:
    return None if token_id is None else tokenizer.token_bytes(token_id).decode(errors="replace")


def _joined(parts: Iterable[str | int]) -> tuple[str | int, ...]:
    """Put neighbouring texts together."""
    joined: list[str | int] = []
    for part in parts:
        if isinstance(part, str) and joined and isinstance(joined[-1], str):
            joined[-1] += part
        elif part != "":
            joined.append(part)
    return tuple(joined)


def _tool_call(call: ToolCall, where: str) -> dict[str, Any]:
    """A call as templates expect it: with arguments as an object, not as JSON text."""
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise RequestError(
            f"{where}.function.arguments is not JSON: {error}.",
            parameter=f"{where}.function.arguments",
        ) from error
    if not isinstance(arguments, dict):
        raise RequestError(
            f"{where}.function.arguments must be a JSON object.",
            parameter=f"{where}.function.arguments",
        )
    function = {"name": call.name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}
