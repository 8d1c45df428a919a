"""Whether a converted model is the one it was made from: codes, numbers, tokens, template."""

from collections import defaultdict
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint import Checkpoint, StoredTensor, open_checkpoint
from yearling.models.checkpoint.formats import BLOCK_FORMATS, to_float32
from yearling.models.export_check import spec_differences
from yearling.models.weights import weights_of

__all__ = ["FormatChange", "compare_models"]

_TEXTS = (
    "Hello, world! It's 12345 and 3.14; don't\n\n\ttabs  and   spaces ",
    "def f(x):\n    return x + 1  # \u4f60\u597d\uff0c\u4e16\u754c \U0001f642",
    "na\u00efve \u00fcn\u00efc\u00f6de \u0995\u09be \u0416\u0443\u043a",
    " leading space\r\nWE'LL see\u00a0\u3000...",
)
_NUM_GGUF_ENDS = 2  # GGUF names the end of a text and the end of a turn


@dataclass(frozen=True, slots=True)
class FormatChange:
    """All weights that went from one format to one other, or kept theirs.

    Attributes:
        before: Format in the source.
        after: Format in the target.
        num_weights: Weights.
        num_values: Numbers in them.
        changed_values: Numbers that decode to something else.
        changed_codes: Numbers in blocks that are not byte for byte the same; None where the
            format changed, so that codes cannot be compared.
        relative_error: Root mean square of the differences over that of the numbers.
    """

    before: str
    after: str
    num_weights: int
    num_values: int
    changed_values: int
    changed_codes: int | None
    relative_error: float

    def __str__(self) -> str:
        """One line for people."""
        codes = "" if self.changed_codes is None else f", {self.changed_codes} codes changed"
        return (
            f"{self.before} -> {self.after}: {self.num_weights} weights, "
            f"{self.changed_values} of {self.num_values} numbers changed{codes}, "
            f"relative error {self.relative_error:.2g}"
        )


@dataclass(slots=True)
class _Sums:
    num_weights: int = 0
    num_values: int = 0
    changed_values: int = 0
    changed_codes: int = 0
    squares: float = 0.0
    squared_differences: float = 0.0


def compare_models(source: Path, target: Path) -> tuple[FormatChange, ...]:
    """Load both, and compare every weight.

    Raises:
        ModelFormatError: the target is malformed, describes another model, encodes a text to
            other tokens, or has another template.
    """
    with closing(open_checkpoint(source)) as before, closing(open_checkpoint(target)) as after:
        _check_descriptions(before, after)
        _check_texts(before, after)
        sums: defaultdict[tuple[str, str], _Sums] = defaultdict(_Sums)
        for weight in weights_of(before.spec):
            one, other = before.weight(weight), after.weight(weight)
            _add(sums[one.format, other.format], one, other)
    return tuple(
        FormatChange(
            *names,
            total.num_weights,
            total.num_values,
            total.changed_values,
            total.changed_codes if names[0] == names[1] else None,
            (total.squared_differences / (total.squares or 1.0)) ** 0.5,
        )
        for names, total in sorted(sums.items())
    )


def _add(total: _Sums, one: StoredTensor, other: StoredTensor) -> None:
    values, others = to_float32(one), to_float32(other)
    total.num_weights += 1
    total.num_values += values.size
    total.changed_values += int(np.count_nonzero(values != others))
    # Per tensor in float32, across tensors in double precision.
    total.squares += float(np.vdot(values, values))
    differences = values - others
    total.squared_differences += float(np.vdot(differences, differences))
    if one.format == other.format:
        block = BLOCK_FORMATS[one.format]
        pair = [part.data.reshape(-1, block.num_bytes) for part in (one, other)]
        total.changed_codes += block.values * int(np.count_nonzero((pair[0] != pair[1]).any(1)))


def _check_descriptions(before: Checkpoint, after: Checkpoint) -> None:
    if differences := spec_differences(before.spec, after.spec):
        raise ModelFormatError(
            f"{after.path} describes another model than {before.path}: {'; '.join(differences)}."
        )
    ends = after.eos_token_ids
    if ends != before.eos_token_ids[: max(len(ends), _NUM_GGUF_ENDS)]:
        raise ModelFormatError(
            f"{after.path} ends answers with tokens {after.eos_token_ids}, but {before.path} with "
            f"{before.eos_token_ids}."
        )


def _check_texts(before: Checkpoint, after: Checkpoint) -> None:
    one, other = before.tokenizer(), after.tokenizer()
    if (one is None) != (other is None):
        raise ModelFormatError(f"{after.path}: the tokenizer was lost.")
    if one is not None and other is not None:
        names = "".join(list(one.special_tokens)[:8])
        for text in (*_TEXTS, names):
            ids = [tokenizer.encode(text, parse_special=True) for tokenizer in (one, other)]
            if ids[0] != ids[1]:
                raise ModelFormatError(
                    f"{after.path} encodes {text!r} as {ids[1]}, but {before.path} as {ids[0]}."
                )
    templates = [checkpoint.chat_template() for checkpoint in (before, after)]
    sources = [template and template.source for template in templates]
    if sources[0] != sources[1]:
        raise ModelFormatError(f"{after.path} has another chat template than {before.path}.")
