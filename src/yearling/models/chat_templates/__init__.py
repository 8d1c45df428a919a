"""Chat templates by name, for models whose files carry none; the folder is the list.

In 2023 most formats of prompts lived in Python code beside the weights. Each is here as one
Jinja file, which begins with a comment of TOML:

- `source`: who published the format, where and when
- `models`: what was trained on it
- `tokens`: control tokens it writes; a tokenizer that lacks one is refused
- `stop`: texts or tokens that end an answer, beside the tokenizer's own end token
- `adds_bos` (true): whether the tokenizer's BOS comes first, where bare prompts get one
- `has_tools` (false): whether it has turns for calls of tools and their results

Before the file's own text goes `_turns.jinja` or `_tool_turns.jinja`. It checks the order of
roles and sets `system` (the text of a system message, or none) and `turns` (all others).
A template that writes `bos_token` places it itself, and none is put before it.
"""

import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from yearling.core.config import Config
from yearling.core.errors import ConfigError, ModelFormatError, TemplateError

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["NamedTemplate", "named_template", "template_from_file", "template_names"]

_FOLDER = Path(__file__).parent
_HEADER_START = "{#- toml\n"
_HEADER_END = "-#}\n"
_MAX_FILE_BYTES = 1 << 16


class _Header(Config):
    source: str
    models: tuple[str, ...]
    tokens: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    adds_bos: bool = True
    has_tools: bool = False


@dataclass(frozen=True, slots=True)
class NamedTemplate:
    """A chat template that belongs to no model file.

    Attributes:
        name: What `chat_template` options call it.
        models: Names of models that were trained on it.
        source: Who published it, where and when.
        text: The template in Jinja's language, with the check of roles in front.
        tokens: Control tokens it writes, which must come out as single ids.
        stop: Texts that end an answer; some are tokens of the tokenizers it is for.
        adds_bos: Whether the tokenizer's BOS comes first, where bare prompts get one.
        needs: `bos_token` or `eos_token`, where the template writes it.
    """

    name: str
    models: tuple[str, ...]
    source: str
    text: str
    tokens: tuple[str, ...] = ()
    stop: tuple[str, ...] = ()
    adds_bos: bool = False
    needs: tuple[str, ...] = ()

    def tokenizer(self, tokenizer: "Tokenizer") -> "Tokenizer":
        """Give the tokenizer to use with this template: its tokens are control tokens there.

        Raises:
            TemplateError: the tokenizer lacks a token that the template writes.
        """
        try:
            return tokenizer.with_special_tokens(self.tokens)
        except ModelFormatError as error:
            raise TemplateError(
                f"chat template {self.name!r} does not fit this model: {error} "
                f"It is for {', '.join(self.models) or 'other models'}."
            ) from error

    def chat_template(self, tokenizer: "Tokenizer") -> "ChatTemplate":
        """Bind the template to a tokenizer that `tokenizer` gave.

        Raises:
            TemplateError: the template writes a BOS or EOS token, and there is none.
        """
        from yearling.models.chat_template import ChatTemplate

        ids = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id}
        for variable in self.needs:
            if ids[variable] is None:
                raise TemplateError(
                    f"chat template {self.name!r} does not fit this model: it writes "
                    f"{variable}, and the tokenizer has none."
                )
        starts = self.adds_bos and tokenizer.adds_bos
        return ChatTemplate(("{{- bos_token }}" if starts else "") + self.text, tokenizer)

    def stop_token_ids(self, tokenizer: "Tokenizer") -> tuple[int, ...]:
        """Ids of those `stop` texts that are control tokens."""
        special = tokenizer.special_tokens
        return tuple(special[text] for text in self.stop if text in special)

    def stop_texts(self, tokenizer: "Tokenizer") -> tuple[str, ...]:
        """Those `stop` texts that are ordinary text to the tokenizer."""
        return tuple(text for text in self.stop if text not in tokenizer.special_tokens)


def template_names() -> tuple[str, ...]:
    """All names, sorted."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("[!_]*.jinja")))


@cache
def named_template(name: str) -> NamedTemplate:
    """Give the template of a name.

    Raises:
        ConfigError: there is none of that name.

    >>> named_template("qwen").stop
    ('<|im_end|>',)
    """
    names = template_names()
    if name not in names:
        near = get_close_matches(name, names, n=3, cutoff=0.4) or names
        raise ConfigError(
            f"no chat template is named {name!r}. Nearest: {', '.join(near)}. "
            "A file of your own is given by its path, which ends in .jinja."
        )
    return template_from_file(_FOLDER / f"{name}.jinja")


def template_from_file(path: Path) -> NamedTemplate:
    """Read a template: with a header as in this folder, or plain, as beside a model.

    Raises:
        ConfigError: there is no such file, it is too large, or its header is wrong.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"chat template {path} cannot be read: {error}.") from error
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"chat template {path} has more than {_MAX_FILE_BYTES} bytes.")
    if not text.startswith(_HEADER_START):
        return NamedTemplate(path.stem, (), str(path), text)
    header, _, body = text.removeprefix(_HEADER_START).partition(_HEADER_END)
    return _with_header(path, _parse_header(path, header), body)


def _parse_header(path: Path, header: str) -> _Header:
    try:
        return _Header.model_validate(tomllib.loads(header))
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise ConfigError(f"chat template {path} has a wrong header: {error}.") from error


def _with_header(path: Path, header: _Header, body: str) -> NamedTemplate:
    opening = "_tool_turns.jinja" if header.has_tools else "_turns.jinja"
    return NamedTemplate(
        name=path.stem,
        models=header.models,
        source=header.source,
        text=(_FOLDER / opening).read_text("utf-8") + body,
        tokens=header.tokens,
        stop=header.stop,
        adds_bos=header.adds_bos and "bos_token" not in body,
        needs=tuple(name for name in ("bos_token", "eos_token") if name in body),
    )
