"""What every opened model shows, whatever its files look like."""

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.spec import ModelSpec

if TYPE_CHECKING:  # the tokenizers and template libraries are heavy
    from yearling.models.chat_template import ChatTemplate
    from yearling.models.tokenizer import Tokenizer

__all__ = ["Checkpoint"]


class Checkpoint(Protocol):
    """An opened model: a GGUF file or a Hugging Face folder.

    Tensor names are Hugging Face's for the family, for example
    `model.layers.0.self_attn.q_proj.weight`; rows come in Hugging Face's order.

    Attributes:
        path: The file or folder.
        spec: What the model is; shapes of all tensors have been checked against it.
        eos_token_ids: Tokens that end an answer; may be empty.
    """

    path: Path
    spec: ModelSpec
    eos_token_ids: tuple[int, ...]

    def tensor_names(self) -> tuple[str, ...]:
        """Names of all tensors, sorted."""
        ...

    def tensor(self, name: str) -> StoredTensor:
        """Read one tensor by `pread`; safe to call from several threads.

        Raises:
            ModelFormatError: no such tensor, or the file is shorter than its header says.
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
