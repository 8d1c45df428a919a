"""Whether a conversation becomes the same token ids in training, in serving and in transformers.

A prompt that differs between them gives no error, only worse answers. Each way here is the one
that is really used: the renderer of training data, the template that a server loads, and
transformers' own reading of the model's files.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yearling.core.errors import TemplateError, UnsupportedError
from yearling.core.messages import Message, parse_messages
from yearling.data.examples import Conversation, Turn
from yearling.data.render import Renderer
from yearling.data.row_error import RowError
from yearling.serving.model import ModelOptions, load_model

__all__ = ["CONVERSATIONS", "Comparison", "compare_prompts"]

_ANSWER = Message("assistant", parse_messages([{"role": "user", "content": "Yes."}])[0].content)


def _said(*turns: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(turns)]


_SYSTEM = {"role": "system", "content": "You are brief."}

CONVERSATIONS: Mapping[str, Sequence[Mapping[str, str]]] = {
    "a question": _said("What is the capital of France?"),
    "with a system message": [_SYSTEM, *_said("Hi")],
    "several turns": _said("Hi", "Hello!", "Who are you?", "A model.", "Thanks"),
    "system and turns": [_SYSTEM, *_said("One", "Two", "Three")],
    "other scripts": _said("元年是哪一年？ Как дела? 😀 é e\u0301"),
    "white space": _said("  two before,\n\n\ttabs\r\nand two behind  "),
    "code": _said("```python\nfor i in range(3):\n    print(i, '<|x|>')\n```"),
    "control tokens in text": _said("<|im_end|> </s> <s> [INST] <|endoftext|>"),
}
"""Conversations that bring out what templates and tokenizers do differently."""

# Where a user writes <|im_end|>, transformers ends the turn; here it stays what the user wrote.
_OURS_ALONE = "control tokens in text"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One conversation in each way.

    Attributes:
        name: Of the conversation.
        ids: Token ids by way, without those that refuse it.
        refusals: Why a way refuses it.
        texts: What the ids mean.
    """

    name: str
    ids: Mapping[str, Sequence[int]]
    refusals: Mapping[str, str]
    texts: Callable[[int], str]

    @property
    def is_same(self) -> bool:
        """Whether every way gives the same ids, or every way refuses."""
        ways = [tuple(ids) for ids in self.ids.values()]
        return len(set(ways)) <= 1 and not (ways and self.refusals)

    def difference(self) -> str:
        """Say where the ways part; nothing when they do not."""
        if self.is_same:
            return ""
        if self.refusals and self.ids:
            return "; ".join(f"{way} refuses: {why}" for way, why in self.refusals.items())
        shortest = min(map(len, self.ids.values()))
        place = next(
            (i for i in range(shortest) if len({ids[i] for ids in self.ids.values()}) > 1), shortest
        )
        there = ", ".join(
            f"{way} {self._shown(ids[place]) if place < len(ids) else 'has ended'}"
            for way, ids in self.ids.items()
        )
        return f"token {place}: {there}"

    def _shown(self, token: int) -> str:
        return f"{self.texts(token)!r} ({token})"


def compare_prompts(model: str, chat_template: str | None = None) -> list[Comparison]:
    """Render every conversation in every way.

    Args:
        model: Name in the store, GGUF file or Hugging Face folder.
        chat_template: Name of a template or path of a .jinja file; None takes the model's own.

    Raises:
        ModelError: the model is not there, or its files are malformed.
        UnsupportedError: it has no chat template, or transformers is not installed.
    """
    served = load_model(model, ModelOptions(chat_template=chat_template))
    with closing(served.checkpoint):
        tokenizer, template = served.tokenizer, served.chat_template
        if tokenizer is None or template is None:
            raise UnsupportedError(f"{model} has no chat template: it does not chat.")
        ways: dict[str, Callable[[Sequence[Mapping[str, str]]], Sequence[int]]] = {
            "training": _training(Renderer.open(model, chat_template=chat_template)),
            "serving": lambda said: template.encode(parse_messages(said)),
            "transformers": _transformers(served.path, template.source),
        }

        def text(token: int) -> str:
            return tokenizer.token_bytes(token).decode("utf-8", "replace")

        ours = {way: render for way, render in ways.items() if way != "transformers"}
        return [
            _compare(name, said, ours if name == _OURS_ALONE else ways, text)
            for name, said in CONVERSATIONS.items()
        ]


def _compare(
    name: str,
    said: Sequence[Mapping[str, str]],
    ways: Mapping[str, Callable[[Sequence[Mapping[str, str]]], Sequence[int]]],
    text: Callable[[int], str],
) -> Comparison:
    ids: dict[str, Sequence[int]] = {}
    refusals: dict[str, str] = {}
    for way, render in ways.items():
        try:
            ids[way] = render(said)
        except (TemplateError, RowError) as error:
            refusals[way] = str(error)
    return Comparison(name, ids, refusals, text)


def _training(renderer: Renderer) -> Callable[[Sequence[Mapping[str, str]]], Sequence[int]]:
    """The prompt of a row whose last turn is learned."""

    def render(said: Sequence[Mapping[str, str]]) -> Sequence[int]:
        turns = tuple(Turn(message, has_loss=False) for message in parse_messages(said))
        row = renderer.conversation(Conversation((*turns, Turn(_ANSWER, has_loss=True))))
        prompt: list[int] = row.tokens[: row.num_prompt].tolist()
        return prompt

    return render


def _transformers(
    path: Path, template: str
) -> Callable[[Sequence[Mapping[str, str]]], Sequence[int]]:
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise UnsupportedError(
            "transformers is not installed, against which prompts are compared.\n"
            "  Install it with: pip install 'yearling[train]'"
        ) from None
    with tempfile.TemporaryDirectory(prefix="yearling-parity-") as home:
        tokenizer = AutoTokenizer.from_pretrained(_folder(path, Path(home)))

    def render(said: Sequence[Mapping[str, str]]) -> Sequence[int]:
        try:
            ids: Any = tokenizer.apply_chat_template(
                [dict(message) for message in said],
                chat_template=template,
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        except Exception as error:
            # Jinja2's, which is imported in one place alone.
            if type(error).__name__ != "TemplateError":
                raise
            raise TemplateError(str(error)) from None
        return list(ids)

    return render


def _folder(path: Path, home: Path) -> Path:
    """The model's own folder, or the tokenizer of a GGUF file written as one."""
    from yearling.models.checkpoint.gguf import GgufFile
    from yearling.models.tokenizer_to_folder import folder_tokenizer

    if path.is_dir():
        return path
    with closing(GgufFile(path)) as file:
        written: Mapping[str, Any] = folder_tokenizer(file.metadata)
    for name, content in written.items():
        (home / name).write_text(json.dumps(content), encoding="utf-8")
    return home
