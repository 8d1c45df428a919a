"""A Hugging Face folder as a `Checkpoint`: config.json, safetensors, tokenizer, template."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.agreement import check_tensors
from yearling.models.checkpoint.folder_texts import FolderTexts, read_settings
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.safetensors import SafetensorsFiles
from yearling.models.checkpoint.sentence_encoder import with_sentence_settings
from yearling.models.families import family_of_model_type
from yearling.models.places import Place, hugging_face_places, take_weight
from yearling.models.weights import Weight

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["FolderCheckpoint"]


class FolderCheckpoint:
    """An opened Hugging Face folder; the attributes are those of `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        """Open the folder and check its tensors against its configuration.

        Raises:
            ModelFormatError: a file is missing or malformed, or no family covers the model.
        """
        self.path = path
        if not (path / "config.json").exists():
            raise ModelFormatError(f"{path}: holds no config.json, so it is no model folder.")
        config = read_settings(path / "config.json")
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
        self._texts = FolderTexts(path, self.spec.vocabulary)
        self.eos_token_ids = self._texts.eos_token_ids(config)

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
        return self._texts.tokenizer

    def chat_template(self) -> "ChatTemplate | None":
        """The template of chat_template.jinja, else of tokenizer_config.json, or None.

        Raises:
            ModelFormatError: it is there without a tokenizer, or is malformed.
            TemplateError: it is refused.
        """
        return self._texts.chat_template()

    def close(self) -> None:
        """Close all files; harmless to repeat."""
        self._files.close()

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
