"""What every opened model shows, whatever its files look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.families import Family
from yearling.models.spec import ModelSpec
from yearling.models.weights import Weight

if TYPE_CHECKING:  # the tokenizers and template libraries are heavy
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["Checkpoint"]


class Checkpoint(Protocol):
    """An opened model: a GGUF file or a Hugging Face folder.

    Attributes:
        path: The file or folder.
        family: Whose file it is.
        spec: What the model is; shapes of all tensors have been checked against it.
        eos_token_ids: Tokens that end an answer; may be empty.
    """

    path: Path
    family: Family
    spec: ModelSpec
    eos_token_ids: tuple[int, ...]

    def weight(self, weight: Weight) -> StoredTensor:
        """Read one weight of the spec by `pread`; safe to call from several threads.

        It comes in canonical form, whatever the file fuses, stacks, transposes or permutes.

        Raises:
            ModelFormatError: the spec has no such weight, or the file is shorter than its header
                says.
        """
        ...

    def tokenizer(self) -> "Tokenizer | None":
        """The tokenizer the files carry, or None."""
        ...

    def chat_template(self) -> "ChatTemplate | None":
        """The chat template the files carry, or None."""
        ...

    def close(self) -> None:
        """Let go of the files; harmless to repeat."""
        ...
