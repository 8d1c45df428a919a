"""A Hugging Face folder that no family covers, for the executor on transformers.

It has no `ModelSpec`: transformers' own class knows what the model is. Only what serving asks
of any model is read here.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.folder_texts import FolderTexts, read_settings
from yearling.models.families import families

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["FallbackCheckpoint", "needs_fallback"]

_CONTEXT_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "n_ctx",
    "max_sequence_length",
    "context_length",
)
_DEFAULT_CONTEXT = 2_048  # models whose positions are relative need not say


def needs_fallback(path: Path) -> bool:
    """Whether a path is a model folder whose `model_type` belongs to no family.

    Raises:
        ModelFormatError: its config.json is malformed.
    """
    if not (path / "config.json").is_file():
        return False
    model_type = read_settings(path / "config.json").text("model_type")
    return not any(model_type in family.model_types for _, family in families)


class FallbackCheckpoint:
    """An opened folder: everything but the weights.

    Attributes:
        path: The folder.
        model_type: What config.json calls the model.
        is_encoder_decoder: Whether a prompt is read by an encoder, as T5 does.
        vocabulary: Token ids there are.
        context: Longest sequence in tokens.
        eos_token_ids: Tokens that end an answer; may be empty.
    """

    def __init__(self, path: Path) -> None:
        """Read the folder's settings.

        Raises:
            ModelNotFoundError: there is no config.json.
            ModelFormatError: it is malformed, or says nothing of a vocabulary.
        """
        self.path = path
        config = read_settings(path / "config.json")
        self.model_type = config.text("model_type")
        if "auto_map" in config:
            raise ModelFormatError(
                f"{path}: its code is part of the folder (auto_map), and such code is never run; "
                "ask for a conversion to a model_type that transformers has."
            )
        self.is_encoder_decoder = config.flag("is_encoder_decoder", False)
        text = config.inner("text_config") or config
        self.vocabulary = text.integer("vocab_size", minimum=1)
        key = next((key for key in _CONTEXT_KEYS if key in text), "")
        self.context = text.integer(key, _DEFAULT_CONTEXT, minimum=1)
        self._texts = FolderTexts(path, self.vocabulary)
        self.eos_token_ids = self._texts.eos_token_ids(config)

    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer of tokenizer.json, or None when there is no such file.

        Raises:
            ModelFormatError: it is malformed, or has more tokens than the embedding rows.
        """
        return self._texts.tokenizer

    def chat_template(self) -> "ChatTemplate | None":
        """The folder's chat template, or None.

        Raises:
            ModelFormatError: it is there without a tokenizer, or is malformed.
            TemplateError: it is refused.
        """
        return self._texts.chat_template()

    def close(self) -> None:
        """Let go of what was read of the texts; no file is kept open."""
        self._texts = FolderTexts(self.path, self.vocabulary)
