"""A GGUF file as a `Checkpoint`: canonical names, Hugging Face's order of rows."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.agreement import check_tensors, check_vocabulary
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.gguf import GgufFile
from yearling.models.families import family_of_architecture
from yearling.models.fields import Fields
from yearling.models.weights import Weight, weights_of

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
        self._family = family_of_architecture(metadata.text("general.architecture"))
        self.spec = self._family.spec_from_gguf(self._file)
        weights = {weight.names(self._family.weights): weight for weight in weights_of(self.spec)}
        self._weights: dict[str, tuple[str, Weight]] = {
            canonical: (gguf, weight) for (canonical, gguf), weight in weights.items()
        }
        wanted = {gguf: weight.shape for (_, gguf), weight in weights.items()}
        found = {name: place.shape for name, place in self._file.tensors.items()}
        check_tensors(str(path), wanted, found, self._family.ignored)
        self.eos_token_ids = _eos_token_ids(metadata, self.spec.vocabulary)
        tokens = self._file.metadata.count("tokenizer.ggml.tokens") or 0
        check_vocabulary(str(path), tokens, self.spec.vocabulary)

    def tensor_names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        return tuple(sorted(self._weights))

    def tensor(self, name: str) -> StoredTensor:
        """Read one tensor and put its rows back in Hugging Face's order.

        Raises:
            ModelFormatError: no such tensor, or the file has been cut since it was opened.
        """
        if name not in self._weights:
            raise ModelFormatError(f"{self.path}: holds no tensor {name}.")
        stored_name, weight = self._weights[name]
        stored = self._file.tensor(stored_name)
        if weight.layer is None:
            return stored
        order = self._family.gguf_row_order(weight.role, self.spec, weight.layer)
        if order is None:
            return stored
        # A row is whole blocks, so rows move as bytes, whatever the format.
        rows = stored.data.reshape(weight.shape[0], -1)[order]
        return StoredTensor(stored.format, stored.shape, rows.reshape(-1))

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
