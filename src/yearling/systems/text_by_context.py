"""Sources of Python's library as characters, and how well a decoder tells the next by context.

The same characters are told with more and more of what stands before them, so that lengths differ
in nothing but what may be known.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from yearling.models.torch_decoder import TorchDecoder
    from yearling.systems.tiny_bases import Rows

__all__ = ["CHARACTERS", "bits_by_context", "bits_per_character", "library_text"]

CHARACTERS = 128
"""Ids of text: ASCII."""

_ASKED = 64  # characters behind each context
_TOKENS_AT_ONCE = 1 << 15


def library_text(names: Sequence[str]) -> "Tensor":
    """Give sources of Python's library, one after another, without what is not ASCII.

    Args:
        names: Modules, or packages, of which the first file is taken.
    """
    from importlib.util import find_spec
    from pathlib import Path

    import torch

    texts = []
    for name in names:
        found = find_spec(name)
        assert found is not None, f"Python has no module {name}"
        assert found.origin is not None, f"{name} has no source"
        texts.append(Path(found.origin).read_text(encoding="utf-8"))
    return torch.tensor(list("\n".join(texts).encode("ascii", "ignore")))


def bits_per_character(decoder: "TorchDecoder", rows: "Rows") -> float:
    """Give the mean bits of all labelled characters."""
    import torch

    from yearling.systems.tiny_bases import Rows, token_losses

    at_once = max(1, _TOKENS_AT_ONCE // rows.tokens.shape[1])
    parts = zip(*(torch.split(part, at_once) for part in (rows.tokens, rows.labels)), strict=True)
    losses = torch.cat([token_losses(decoder, Rows(*part)) for part in parts])
    return losses.mean().item() / math.log(2)


def bits_by_context(
    decoder: "TorchDecoder", text: "Tensor", contexts: Sequence[int], count: int
) -> list[float]:
    """Give the bits of the same characters with each number of characters before them.

    Args:
        text: Held out, longer than the longest context.
        contexts: In characters.
        count: Places in the text.
    """
    import torch

    from yearling.models.torch_decoder import NO_LABEL
    from yearling.systems.tiny_bases import windows_of

    ends = torch.linspace(max(contexts), len(text) - _ASKED - 1, count).long()
    found = []
    for context in contexts:
        rows = windows_of(text, context + _ASKED, ends - context)
        rows.labels[:, :context] = NO_LABEL
        found.append(bits_per_character(decoder, rows))
    return found
