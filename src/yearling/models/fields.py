"""Values of a model file's settings, each checked for type and range as it is taken.

A settings file is written by strangers: a missing key, a string where a number belongs or a
layer count of 2^60 is a `ModelFormatError` that names the file, the key and the value.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from yearling.core.errors import ModelFormatError

__all__ = ["Fields"]

_SHOWN = 80


class Fields:
    """A mapping from a model file, read through accessors that check.

    >>> config = Fields({"hidden_size": 576, "act": "silu"}, "config.json")
    >>> config.integer("hidden_size", minimum=1)
    576
    >>> config.integer("num_hidden_layers", default=2)
    2
    >>> config.integer("act")
    Traceback (most recent call last):
    yearling.core.errors.ModelFormatError: config.json: act='silu' must be an integer.

    Attributes:
        values: The mapping itself.
        label: Where it comes from, for messages: a path, or a path and a key.
    """

    def __init__(self, values: Mapping[str, Any], label: str) -> None:
        self.values = values
        self.label = label

    def __contains__(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(
        self, key: str, default: int | None = None, *, minimum: int = 0, maximum: int = 2**31
    ) -> int:
        """Take an integer within bounds.

        Raises:
            ModelFormatError: it is absent without a default, no integer, or out of bounds.
        """
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(key, "must be an integer")
        if not minimum <= value <= maximum:
            raise self.error(key, f"must be from {minimum} to {maximum}")
        return value

    def number(self, key: str, default: float | None = None, *, above: float = -math.inf) -> float:
        """Take a finite number greater than `above`.

        Raises:
            ModelFormatError: it is absent without a default, no finite number, or too small.
        """
        value = self._take(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(key, "must be a number")
        if not abs(value) < 2.0**127 or not value > above:
            raise self.error(key, f"must be finite and greater than {above:g}")
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Take true or false.

        Raises:
            ModelFormatError: it is absent without a default, or something else.
        """
        value = self._take(key, default)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Take a string.

        Raises:
            ModelFormatError: it is absent without a default, or no string.
        """
        value = self._take(key, default)
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def token_ids(self, key: str, vocabulary: int) -> tuple[int, ...]:
        """Take one token id or a list of them; none when the key is absent.

        Raises:
            ModelFormatError: an entry is no id below `vocabulary`.
        """
        value = self.values.get(key)
        entries = value if isinstance(value, list) else [] if value is None else [value]
        for entry in entries:
            if isinstance(entry, bool) or not isinstance(entry, int):
                raise self.error(key, "must be a token id or a list of them")
            if not 0 <= entry < vocabulary:
                raise self.error(key, f"must be below the vocabulary size of {vocabulary}")
        return tuple(dict.fromkeys(entries))

    def inner(self, key: str) -> "Fields | None":
        """Take a mapping inside this one, or None when it is absent.

        Raises:
            ModelFormatError: it is something else.
        """
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise self.error(key, "must be a mapping")
        return Fields(value, f"{self.label}, {key}")

    def under(self, prefix: str) -> "Fields":
        """Take the keys that begin with a prefix, without it, as GGUF groups its metadata.

        >>> Fields({"llama.block_count": 30, "general.name": "x"}, "m.gguf").under("llama.").values
        {'block_count': 30}
        """
        keys = [key for key in self.values if key.startswith(prefix)]
        inner = {key.removeprefix(prefix): self.values[key] for key in keys}
        return Fields(inner, f"{self.label}, {prefix}*")

    @contextmanager
    def checked(self) -> Iterator[None]:
        """Turn the `ValueError` of a spec's own checks into the error of this file.

        Raises:
            ModelFormatError: the block raised `ValueError`.
        """
        try:
            yield
        except ValueError as error:
            raise ModelFormatError(f"{self.label}: {error}") from error

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Refuse keys that are set and that nobody would read.

        Raises:
            ModelFormatError: a key outside `known` holds something other than null or false.
        """
        for key, value in self.values.items():
            if key not in known and value is not None and value is not False:
                raise self.error(
                    key,
                    "is not known for this family, so the model may compute something else than "
                    "Yearling would. If it does not change the arithmetic, remove the key",
                )

    def error(self, key: str, complaint: str) -> ModelFormatError:
        """Make the error that a key's value deserves; the caller raises it."""
        shown = repr(self.values.get(key))
        shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "…"
        return ModelFormatError(f"{self.label}: {key}={shown} {complaint}.")

    def _take(self, key: str, default: Any) -> Any:
        value = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise ModelFormatError(f"{self.label}: {key} is missing.")
        return value
