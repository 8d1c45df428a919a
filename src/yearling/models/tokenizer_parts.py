"""What every kind of tokenizer file is read into, before special tokens are added."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from yearling.models.vocabulary import Vocabulary

if TYPE_CHECKING:
    import tokenizers

__all__ = ["TokenizerParts"]


@dataclass(frozen=True, slots=True)
class TokenizerParts:
    """A tokenizer as its files describe it.

    Attributes:
        backend: Model, normalizer and pre-tokenizer, without any special token.
        vocabulary: All tokens.
        bos_id: Beginning-of-sequence token, or None.
        eos_id: End-of-sequence token, or None.
        prefix_ids: Special tokens that the model was trained to see before a text.
        suffix_ids: Special tokens that it was trained to see after a text.
        flags: Settings of added tokens by spelling: `lstrip rstrip single_word normalized`.
        secret: Random text that stands in the backend for spellings of special tokens, or "".
    """

    backend: "tokenizers.Tokenizer"
    vocabulary: Vocabulary
    bos_id: int | None
    eos_id: int | None
    prefix_ids: tuple[int, ...] = ()
    suffix_ids: tuple[int, ...] = ()
    flags: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)
    secret: str = ""
