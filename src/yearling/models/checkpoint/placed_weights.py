"""Reading a spec's weights from where files keep them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.places import Place, take_weight
from yearling.models.weights import Weight

__all__ = ["PlacedWeights"]


class _Tensors(Protocol):
    """What every kind of file shows: its tensors by name."""

    def tensor(self, name: str) -> StoredTensor: ...

    def pieces(self, name: str) -> Iterator[StoredTensor]: ...

    def close(self) -> None: ...


class PlacedWeights:
    """The part of a `Checkpoint` that does not depend on its kind of file."""

    path: Path
    _file: _Tensors
    _places: Mapping[Weight, Place]

    def weight(self, weight: Weight) -> StoredTensor:
        """Read one weight in canonical form; safe to call from several threads.

        Raises:
            ModelFormatError: no such weight, or its file has been cut since it was opened.
        """
        place = self._place(weight)
        return take_weight(self._file.tensor(place.name), place, weight)

    def pieces(self, weight: Weight) -> Iterator[StoredTensor]:
        """Read one weight some rows at a time, where the file holds it in canonical form.

        Raises:
            ModelFormatError: as of `weight`.
        """
        place = self._place(weight)
        if place.is_canonical and place.shape == weight.shape:
            yield from self._file.pieces(place.name)
        else:
            yield self.weight(weight)

    def close(self) -> None:
        """Close the files; harmless to repeat."""
        self._file.close()

    def _place(self, weight: Weight) -> Place:
        if weight not in self._places:
            raise ModelFormatError(f"{self.path}: the model has no {weight}.")
        return self._places[weight]
