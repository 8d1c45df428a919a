"""A GGUF file as a `Checkpoint`: canonical names, Hugging Face's order of rows."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.agreement import check_tensors, check_vocabulary
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.families import families, family_of_architecture
from yearling.models.fields import Fields
from yearling.models.places import gguf_places, take_weight
from yearling.models.weights import Weight

if TYPE_CHECKING:
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["GgufCheckpoint"]


class GgufCheckpoint:
    """An opened GGUF file; the attributes are those of `Checkpoint`."""

    def __init__(self, path: Path) -> None:
        """Open the file and check its tensors against its settings.

        Raises:
            ModelNotFoundError: nothing is there.
            ModelFormatError: it is malformed, or of an architecture no family covers.
        """
        self.path = path
        self._file = GgufFile(path)
        metadata = Fields(self._file.metadata, str(path))
        if metadata.integer("split.count", 1) > 1:
            raise metadata.error("split.count", "but split files are not read; merge them first")
        reader = family_of_architecture(metadata.text("general.architecture")).spec_from_gguf
        assert reader is not None, "a family of GGUF reads GGUF"
        self.spec = reader(self._file)
        self.family = families.get(self.spec.family)  # several share an architecture
        self._places = gguf_places(self.spec, self.family)
        wanted = {place.name: place.shape for place in self._places.values()}
        found = {name: place.shape for name, place in self._file.tensors.items()}
        check_tensors(str(path), wanted, found, self.family.ignored)
        self.eos_token_ids = _eos_token_ids(metadata, self.spec.vocabulary)
        tokens = self._file.metadata.count("tokenizer.ggml.tokens") or 0
        check_vocabulary(str(path), tokens, self.spec.vocabulary)

    def weight(self, weight: Weight) -> StoredTensor:
        """Read one weight in canonical form, with rows in Hugging Face's order.

        Raises:
            ModelFormatError: no such weight, or the file has been cut since it was opened.
        """
        if weight not in self._places:
            raise ModelFormatError(f"{self.path}: the model has no {weight}.")
        place = self._places[weight]
        return take_weight(self._file.tensor(place.name), place, weight)

    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer in the metadata, or None.

        Raises:
            ModelFormatError: it is malformed, or of a type that is not read.
        """
        return self._tokenizer

    def chat_template(self) -> "ChatTemplate | None":
        """The chat template in the metadata, or None.

        Raises:
            ModelFormatError: it is there without a tokenizer, or is no string.
            TemplateError: it is refused.
        """
        metadata = Fields(self._file.metadata, str(self.path))
        if "tokenizer.chat_template" not in metadata:
            return None
        from yearling.models.chat_template import ChatTemplate

        source = metadata.text("tokenizer.chat_template")
        if self._tokenizer is None:
            raise ModelFormatError(f"{self.path}: has a chat template, but no tokenizer.")
        return ChatTemplate(source, self._tokenizer)

    def close(self) -> None:
        """Close the file; harmless to repeat."""
        self._file.close()

    @cached_property
    def _tokenizer(self) -> "Tokenizer | None":
        if "tokenizer.ggml.model" not in self._file.metadata:
            return None
        from yearling.models.tokenizer import Tokenizer

        tokenizer = Tokenizer.from_gguf(self._file.metadata)
        check_vocabulary(str(self.path), tokenizer.vocabulary_size, self.spec.vocabulary)
        return tokenizer


def _eos_token_ids(metadata: Fields, vocabulary: int) -> tuple[int, ...]:
    """Take the end of a text and, where it differs, the end of a turn."""
    keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
    return tuple(dict.fromkeys(i for key in keys for i in metadata.token_ids(key, vocabulary)))
