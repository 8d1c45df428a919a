"""A Hugging Face folder as a `Checkpoint`: config.json, safetensors, tokenizer, template."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.agreement import check_tensors, check_vocabulary
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.safetensors import SafetensorsFiles
from yearling.models.checkpoint.sentence_encoder import with_sentence_settings
from yearling.models.checkpoint.source import SourceFile
from yearling.models.families import family_of_model_type
from yearling.models.fields import Fields
from yearling.models.json_file import read_json_object
from yearling.models.places import Place, hugging_face_places, take_weight
from yearling.models.weights import Weight

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["FolderCheckpoint"]

_MAX_CONFIG_BYTES = 1 << 20
_MAX_TOKENIZER_CONFIG_BYTES = 16 << 20  # some list every added token
_MAX_TEMPLATE_BYTES = 1 << 20


class FolderCheckpoint:
    """An opened Hugging Face folder; the attributes are those of `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        """Open the folder and check its tensors against its configuration.

        Raises:
            ModelFormatError: a file is missing or malformed, or no family covers the model.
        """
        self.path = path
        config = _read_settings(path / "config.json", _MAX_CONFIG_BYTES)
        if config is None:
            raise ModelFormatError(f"{path}: holds no config.json, so it is no model folder.")
        self.family = family_of_model_type(config.text("model_type"))
        self.spec = with_sentence_settings(self.family.spec_from_config(config), path)
        self._files = SafetensorsFiles(path)
        found = {name: place.shape for name, place in self._files.tensors.items()}
        self._places = self._find_places(found)
        wanted = {place.name: place.shape for place in self._places.values()}
        # A tied head is a copy that some writers keep.
        head = self.family.names(self.spec).get("head")
        tied = {f"{head.hugging_face}.weight"} - set(wanted) if head else set()
        check_tensors(str(path), wanted, found, (*self.family.ignored, *tied))
        self.eos_token_ids = self._eos_token_ids(config)

    def weight(self, weight: Weight) -> StoredTensor:
        """Read one weight in canonical form.

        Raises:
            ModelFormatError: no such weight, or its file has been cut since it was opened.
        """
        if weight not in self._places:
            raise ModelFormatError(f"{self.path}: the model has no {weight}.")
        place = self._places[weight]
        return take_weight(self._files.tensor(place.name), place, weight)

    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer of tokenizer.json or of an older file; None when there is none.

        Raises:
            ModelFormatError: it is malformed, or has more tokens than the embedding rows.
        """
        return self._tokenizer

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

        if self._tokenizer is None:
            raise ModelFormatError(f"{self.path}: has a chat template, but no tokenizer.")
        return ChatTemplate(source, self._tokenizer)

    def close(self) -> None:
        """Close all files; harmless to repeat."""
        self._files.close()

    @cached_property
    def _tokenizer(self) -> "Tokenizer | None":
        from yearling.models.tokenizer import Tokenizer

        path = Tokenizer.find_file(self.path)
        if path is None:
            return None
        tokenizer = Tokenizer.from_file(path, self._tokenizer_config)
        check_vocabulary(str(path), tokenizer.vocabulary_size, self.spec.vocabulary)
        return tokenizer

    @cached_property
    def _tokenizer_config(self) -> dict[str, Any]:
        path = self.path / "tokenizer_config.json"
        return read_json_object(path, _MAX_TOKENIZER_CONFIG_BYTES) if path.exists() else {}

    def _find_places(self, found: Mapping[str, tuple[int, ...]]) -> dict[Weight, Place]:
        """Name the weights as this folder does: some leave out how a family's names begin."""
        places = hugging_face_places(self.spec, self.family.names(self.spec))
        for prefix in self.family.prefixes:
            short = {
                weight: replace(place, name=place.name.removeprefix(prefix))
                for weight, place in places.items()
            }
            missing = sum(place.name not in found for place in places.values())
            if sum(place.name not in found for place in short.values()) < missing:
                places = short
        return places

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

    def _eos_token_ids(self, config: Fields) -> tuple[int, ...]:
        """Take what generation_config.json says, else config.json, else the tokenizer."""
        generation = _read_settings(self.path / "generation_config.json", _MAX_CONFIG_BYTES)
        for settings in (generation, config):
            if settings is not None and "eos_token_id" in settings:
                return settings.token_ids("eos_token_id", self.spec.vocabulary)
        eos_id = self._tokenizer.eos_id if self._tokenizer is not None else None
        return () if eos_id is None else (eos_id,)


def _read_settings(path: Path, limit_bytes: int) -> Fields | None:
    return Fields(read_json_object(path, limit_bytes), str(path)) if path.exists() else None


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
