"""Which format each weight gets in a converted file.

Source: the choices of llama.cpp's `llama-quantize` for its plain types: vectors and small
state-space tensors stay float32, the matrix that makes logits gets more bits, and rows that
are no whole number of superblocks fall back to blocks of 32.
"""

from collections.abc import Collection, Iterable

from yearling.models.checkpoint.formats import BLOCK_FORMATS
from yearling.models.spec import Head, ModelSpec
from yearling.models.weights import Weight

__all__ = ["TARGET_FORMATS", "file_type", "folder_format", "gguf_format", "is_plain"]

TARGET_FORMATS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q6_K")
"""What `--format` may be; a folder holds the first three only."""

_PLAIN = ("F32", "F16", "BF16")
_MATRICES = {
    *("embedding", "embedding_projection", "query", "key", "value", "output"),
    *("state_input", "state_output", "gate", "up", "down"),
    *("shared_gate", "shared_up", "shared_down", "head"),
}
_FALLBACKS = {"Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0"}
_FILE_TYPES = {
    "F32": 0,
    "F16": 1,
    "Q4_0": 2,
    "Q4_1": 3,
    "Q8_0": 7,
    "Q5_0": 8,
    "Q5_1": 9,
    "Q4_K": 14,
    "Q5_K": 16,
    "Q6_K": 18,
    "BF16": 32,
}


def is_plain(name: str) -> bool:
    """Whether a format is a number type, without blocks.

    >>> is_plain("BF16"), is_plain("Q8_0")
    (True, False)
    """
    return name in _PLAIN


def gguf_format(weight: Weight, spec: ModelSpec, stored: str, wanted: str | None) -> str:
    """Choose a weight's format in a GGUF file.

    Args:
        stored: Its format in the source.
        wanted: What was asked for; None keeps the source's.
    """
    if weight.role not in _MATRICES or weight.part == "bias":
        return "F32"
    name = stored if wanted is None else wanted
    if wanted not in (None, "Q8_0", *_PLAIN) and _makes_logits(weight, spec):
        name = "Q6_K"
    for candidate in (name, _FALLBACKS.get(name, name)):
        if weight.shape[-1] % BLOCK_FORMATS[candidate].values == 0:
            return candidate
    return "F16"


def folder_format(formats: Iterable[tuple[Weight, str]], wanted: str | None) -> str:
    """Choose the one number type of a folder: the narrowest that loses nothing, if none is asked.

    Decoded blocks have up to 24 bits, so they need float32. Vectors are not asked: a GGUF file
    has them in float32 whatever they were; whoever calls looks at their values.
    """
    found = {name for weight, name in formats if weight.role in _MATRICES and weight.part != "bias"}
    if wanted is not None:
        return wanted
    return found.pop() if len(found) == 1 and found <= set(_PLAIN) else "F32"


def file_type(formats: Collection[str]) -> int:
    """Give `general.file_type`: the number of the format that most tensors of matrices have."""
    quantised = [name for name in formats if not is_plain(name)]
    names = quantised or [name for name in formats if name != "F32"] or ["F32"]
    return _FILE_TYPES[max(sorted(set(names)), key=names.count)]


def _makes_logits(weight: Weight, spec: ModelSpec) -> bool:
    if weight.role == "head":
        return True
    return weight.role == "embedding" and isinstance(spec.head, Head) and spec.head.is_tied
