"""Sizes of a model as settings state them, each within bounds no real model comes near.

A layer count of 2^60 must be an error of its file, not a loop that never ends.
"""

from yearling.models.fields import Fields

__all__ = ["read_context", "read_heads", "read_hidden", "read_layers", "read_width"]

_MAX_HEADS = 4_096
_MAX_LAYERS = 4_096
_MAX_WIDTH = 1 << 20
_MAX_HIDDEN = 1 << 24


def read_heads(fields: Fields, key: str, default: int | None = None) -> int:
    """Read a number of heads, or of experts.

    Raises:
        ModelFormatError: it is absent without a default, no integer, or out of bounds.
    """
    return fields.integer(key, default, minimum=1, maximum=_MAX_HEADS)


def read_layers(fields: Fields, key: str) -> int:
    """Read a number of layers.

    Raises:
        ModelFormatError: it is absent, no integer, or out of bounds.
    """
    return fields.integer(key, minimum=1, maximum=_MAX_LAYERS)


def read_width(fields: Fields, key: str, default: int | None = None) -> int:
    """Read the width of a residual stream or of a head.

    Raises:
        ModelFormatError: it is absent without a default, no integer, or out of bounds.
    """
    return fields.integer(key, default, minimum=1, maximum=_MAX_WIDTH)


def read_hidden(fields: Fields, key: str, default: int | None = None) -> int:
    """Read the width of an MLP or of a scan.

    Raises:
        ModelFormatError: it is absent without a default, no integer, or out of bounds.
    """
    return fields.integer(key, default, minimum=1, maximum=_MAX_HIDDEN)


def read_context(fields: Fields, key: str, default: int | None = None) -> int:
    """Read a longest sequence in tokens.

    Raises:
        ModelFormatError: it is absent without a default, no integer, or out of bounds.
    """
    return fields.integer(key, default, minimum=1)
