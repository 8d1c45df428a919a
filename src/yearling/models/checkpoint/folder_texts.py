"""What a Hugging Face folder says about text: its tokenizer, chat template and end tokens."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.agreement import check_vocabulary
from yearling.models.checkpoint.source import SourceFile
from yearling.models.fields import Fields
from yearling.models.json_file import read_json_object

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["FolderTexts", "read_settings"]

_MAX_CONFIG_BYTES = 1 << 20
_MAX_TOKENIZER_CONFIG_BYTES = 16 << 20  # some list every added token
_MAX_TEMPLATE_BYTES = 1 << 20


class FolderTexts:
    """Reads the text side of a model folder.

    Attributes:
        path: The folder.
        vocabulary: Rows of the model's embedding, which no token id may exceed.
    """

    def __init__(self, path: Path, vocabulary: int) -> None:
        self.path = path
        self.vocabulary = vocabulary

    @cached_property
    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer of tokenizer.json or of an older file; None when there is none.

        Raises:
            ModelFormatError: it is malformed, or has more tokens than the embedding rows.
        """
        from yearling.models.tokenizer import Tokenizer

        path = Tokenizer.find_file(self.path)
        if path is None:
            return None
        tokenizer = Tokenizer.from_file(path, self._tokenizer_config)
        check_vocabulary(str(path), tokenizer.vocabulary_size, self.vocabulary)
        return tokenizer

    def chat_template(self) -> "ChatTemplate | None":
        """The template of chat_template.jinja, else of tokenizer_config.json, or None.

        Raises:
            ModelFormatError: it is there without a tokenizer, or is malformed.
            TemplateError: it is refused.
        """
        source = self._template_source()
        if source is None:
            return None
        from yearling.models.chat_template import ChatTemplate

        if self.tokenizer is None:
            raise ModelFormatError(f"{self.path}: has a chat template, but no tokenizer.")
        return ChatTemplate(source, self.tokenizer)

    def eos_token_ids(self, config: Fields) -> tuple[int, ...]:
        """Take what generation_config.json says, else config.json, else the tokenizer."""
        path = self.path / "generation_config.json"
        generation = read_settings(path) if path.exists() else None
        for settings in (generation, config):
            if settings is not None and "eos_token_id" in settings:
                return settings.token_ids("eos_token_id", self.vocabulary)
        eos_id = self.tokenizer.eos_id if self.tokenizer is not None else None
        return () if eos_id is None else (eos_id,)

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        path = self.path / "tokenizer_config.json"
        return read_json_object(path, _MAX_TOKENIZER_CONFIG_BYTES) if path.exists() else {}

    def _template_source(self) -> str | None:
        path = self.path / "chat_template.jinja"
        if path.exists():
            return _read_text(path, _MAX_TEMPLATE_BYTES)
        source = self._tokenizer_config.get("chat_template")
        if isinstance(source, list):  # several by name, of which plain chat is the default one
            named = {str(e.get("name")): e.get("template") for e in source if isinstance(e, dict)}
            source = named.get("default")
        if source is not None and not isinstance(source, str):
            raise ModelFormatError(
                f"{self.path / 'tokenizer_config.json'}: chat_template must be a string."
            )
        return source


def read_settings(path: Path) -> Fields:
    """Read a folder's config.json or generation_config.json.

    Raises:
        ModelNotFoundError: there is none.
        ModelFormatError: it is malformed.
    """
    return Fields(read_json_object(path, _MAX_CONFIG_BYTES), str(path))


def _read_text(path: Path, limit_bytes: int) -> str:
    source = SourceFile(path)
    try:
        if source.size > limit_bytes:
            raise ModelFormatError(f"{path}: has {source.size} bytes, above {limit_bytes}.")
        return source.read(0, source.size, "the file").tobytes().decode()
    except UnicodeDecodeError as error:
        raise ModelFormatError(f"{path}: is not UTF-8.") from error
    finally:
        source.close()
