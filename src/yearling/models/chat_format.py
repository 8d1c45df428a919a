"""How a model is spoken to: tokenizer, chat template and what ends an answer, for every user of it.

Serving, training and evaluation all take them from here, so that none can differ.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import ConfigError
from yearling.models.chat_templates import named_template, template_from_file

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.checkpoint import Checkpoint
    from yearling.models.checkpoint.fallback_checkpoint import FallbackCheckpoint
    from yearling.models.tokenizer import Tokenizer

__all__ = ["ChatFormat", "chat_format"]


@dataclass(frozen=True, slots=True)
class ChatFormat:
    """Tokenizer and template as a model is used with them, and what ends an answer.

    Attributes:
        tokenizer: None when the files carry none.
        template: None when there is none; such a model completes but cannot chat.
        end_token_ids: Ids that end an answer, sorted.
        stop_texts: Ordinary texts that end an answer in a chat, beside those ids.
    """

    tokenizer: "Tokenizer | None"
    template: "ChatTemplate | None"
    end_token_ids: tuple[int, ...] = ()
    stop_texts: tuple[str, ...] = ()


def chat_format(
    checkpoint: "Checkpoint | FallbackCheckpoint", chat_template: str | None = None
) -> ChatFormat:
    """Take the files' own template, or the one asked for by name or path.

    Args:
        checkpoint: The model's files.
        chat_template: Name of a template, or path of a file that ends in .jinja; None takes the
            model's own.

    Raises:
        ConfigError: there is no such template, or no tokenizer for it.
        TemplateError: the template does not fit the tokenizer.
        ModelFormatError: the tokenizer or the template is malformed.
    """
    own = checkpoint.tokenizer()
    if chat_template is None:
        ends = _end_token_ids(checkpoint, own, ())
        return ChatFormat(own, checkpoint.chat_template(), ends)
    is_path = chat_template.endswith(".jinja")
    template = template_from_file(Path(chat_template)) if is_path else named_template(chat_template)
    if own is None:
        raise ConfigError(
            f"chat_template={chat_template} needs a tokenizer, and this model came without one."
        )
    tokenizer = template.tokenizer(own)
    return ChatFormat(
        tokenizer,
        template.chat_template(tokenizer),
        _end_token_ids(checkpoint, tokenizer, template.stop_token_ids(tokenizer)),
        template.stop_texts(tokenizer),
    )


def _end_token_ids(
    checkpoint: "Checkpoint | FallbackCheckpoint",
    tokenizer: "Tokenizer | None",
    stop_token_ids: tuple[int, ...],
) -> tuple[int, ...]:
    ends = {*checkpoint.eos_token_ids, *stop_token_ids}
    if tokenizer is not None and tokenizer.eos_id is not None:
        ends.add(tokenizer.eos_id)
    return tuple(sorted(ends))
