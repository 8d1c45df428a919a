"""Ways to keep a moment of an optimizer between steps, in four bits or factored.

A value is divided by a scale to lie in [-1, 1] and becomes the number of the nearest of sixteen
map values; two such codes share a byte. What differs is the scale (one per block of 128 values,
or the smaller of a row's and a column's largest) and the map. The second moment's map has no
zero: its root divides, so an entry that rounds to zero would throw its weight far away.

Legend: N elements of a tensor, K blocks of it.

Source: Li, Chen and Zhu 2023, arXiv:2309.01507.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

__all__ = [
    "BlockCodes",
    "Exact",
    "Factored",
    "MomentStore",
    "RankOneCodes",
    "dynamic_exponent_map",
    "linear_map",
    "pack_codes",
    "unpack_codes",
]

BLOCK = 128
_CODES = 16
_SCALE_BYTES = 4
_BINS = 2048


def dynamic_exponent_map() -> Float[Tensor, "16"]:
    """Give the signed map whose values crowd around zero, for the first moment.

    A code is a sign, a run of zeros that divides by ten each, and what bits are left to divide
    [0.1, 1] evenly; zero and one are added. Minus one is not among them.

    Source: Dettmers 2015, arXiv:1511.04561; Li et al. 2023.

    >>> [round(value, 4) for value in dynamic_exponent_map()[7:].tolist()]
    [0.0, 0.0055, 0.0325, 0.0775, 0.2125, 0.4375, 0.6625, 0.8875, 1.0]
    """
    positive: list[float] = []
    for zeros in range(3):
        parts = 2 ** (2 - zeros)
        width = 0.9 / parts
        positive += [10.0**-zeros * (0.1 + width * (part + 0.5)) for part in range(parts)]
    return torch.tensor(sorted([*positive, *(-value for value in positive), 0.0, 1.0]))


def linear_map(*, has_zero: bool = False) -> Float[Tensor, "16"]:
    """Give sixteen even values up to one, for the second moment.

    Args:
        has_zero: Begin at zero rather than at 1/16, which is what must not be done; see above.

    >>> linear_map()[:3].tolist()
    [0.0625, 0.125, 0.1875]
    """
    if has_zero:
        return torch.arange(_CODES) / (_CODES - 1)
    return torch.arange(1, _CODES + 1) / _CODES


def pack_codes(codes: UInt8[Tensor, " N"]) -> UInt8[Tensor, " half"]:
    """Put two codes in a byte, the earlier one in the low half; an odd last stands alone.

    >>> pack_codes(torch.tensor([1, 2, 3], dtype=torch.uint8)).tolist()
    [33, 3]
    """
    if len(codes) % 2:
        codes = torch.cat([codes, codes.new_zeros(1)])
    return codes[0::2] | (codes[1::2] << 4)


def unpack_codes(packed: UInt8[Tensor, " half"], count: int) -> UInt8[Tensor, " N"]:
    """Undo `pack_codes`.

    Args:
        count: Codes that were packed.
    """
    return torch.stack([packed & 15, packed >> 4], dim=1).view(-1)[:count]


class MomentStore(Protocol):
    """What keeps a moment: tensors by name, from which the moment comes back, about."""

    def compress(self, moment: Tensor) -> dict[str, Tensor]:
        """Give the tensors to keep."""
        ...

    def restore(self, kept: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Make the moment again, in float32."""
        ...

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Bytes that a moment of a shape takes."""
        ...


@dataclass(frozen=True)
class Exact:
    """The moment itself, in float32: for tensors too small to matter."""

    def compress(self, moment: Tensor) -> dict[str, Tensor]:
        """Give the tensor."""
        return {"values": moment}

    def restore(self, kept: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Give the tensor; it may be changed in place."""
        return kept["values"]

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Four bytes an element."""
        return _SCALE_BYTES * math.prod(shape)


@dataclass(frozen=True)
class BlockCodes:
    """Four-bit codes with a scale per block: its largest absolute value.

    Attributes:
        values: The map, ascending (16,).
        block: Elements that share a scale.
    """

    values: Float[Tensor, "16"]
    block: int = BLOCK

    def compress(self, moment: Tensor) -> dict[str, Tensor]:
        """Give codes and scales."""
        blocks = self._blocks(moment.reshape(-1))
        scale = blocks.abs().amax(1)
        codes = _nearest(blocks / _nonzero(scale)[:, None], self.values)
        return {"codes": pack_codes(codes.view(-1)[: moment.numel()]), "scale": scale}

    def restore(self, kept: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Look codes up and multiply by the scale of their block."""
        count = math.prod(shape)
        blocks = self._blocks(_looked_up(kept["codes"], count, self.values))
        return (blocks * kept["scale"][:, None]).view(-1)[:count].view(*shape)

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Half a byte an element and four a block."""
        count = math.prod(shape)
        return math.ceil(count / 2) + _SCALE_BYTES * math.ceil(count / self.block)

    def _blocks(self, flat: Float[Tensor, " N"]) -> Float[Tensor, "K block"]:
        missing = -len(flat) % self.block
        if missing:
            flat = torch.cat([flat, flat.new_zeros(missing)])
        return flat.view(-1, self.block)


@dataclass(frozen=True)
class RankOneCodes:
    """Four-bit codes whose scale is the smallest of the largest values along each axis.

    An outlier then spoils the one row and the one column it stands in together, where it would
    spoil a block. A vector has no second axis and is kept in blocks.

    Attributes:
        values: The map, ascending (16,).
        block: Elements of a vector that share a scale.

    Source: Li et al. 2023.
    """

    values: Float[Tensor, "16"]
    block: int = BLOCK

    def compress(self, moment: Tensor) -> dict[str, Tensor]:
        """Give codes, and the largest values of each axis one after another."""
        if moment.dim() < 2:
            return BlockCodes(self.values, self.block).compress(moment)
        size = moment.abs()
        axes = range(moment.dim())
        largest = [size.amax([other for other in axes if other != axis]) for axis in axes]
        codes = _nearest(moment / _nonzero(_smallest_over_axes(largest)), self.values)
        return {"codes": pack_codes(codes.reshape(-1)), "scale": torch.cat(largest)}

    def restore(self, kept: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Look codes up and multiply by the scale of their place."""
        if len(shape) < 2:
            return BlockCodes(self.values, self.block).restore(kept, shape)
        scale = _smallest_over_axes(torch.split(kept["scale"], list(shape)))
        return _looked_up(kept["codes"], math.prod(shape), self.values).view(*shape) * scale

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Half a byte an element, and four a row, a column and so on."""
        if len(shape) < 2:
            return BlockCodes(self.values, self.block).num_bytes(shape)
        return math.ceil(math.prod(shape) / 2) + _SCALE_BYTES * sum(shape)


@dataclass(frozen=True)
class Factored:
    """The means of rows and of columns, whose product stands for a matrix that is nowhere below 0.

    A mean is linear, so keeping the means of a moving average is the same as moving the averages
    of means, which is what Adafactor does. Further axes in front are kept; a vector goes to
    `vectors`.

    Attributes:
        vectors: Keeps what has no second axis.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 3.
    """

    vectors: MomentStore = field(default_factory=lambda: BlockCodes(linear_map()))

    def compress(self, moment: Tensor) -> dict[str, Tensor]:
        """Give the means."""
        if moment.dim() < 2:
            return self.vectors.compress(moment)
        return {"rows": moment.mean(-1), "columns": moment.mean(-2)}

    def restore(self, kept: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Multiply every row's mean by every column's, over the mean of all."""
        if len(shape) < 2:
            return self.vectors.restore(kept, shape)
        rows = kept["rows"] / _nonzero(kept["rows"].mean(-1, keepdim=True))
        return rows[..., :, None] * kept["columns"][..., None, :]

    def num_bytes(self, shape: Sequence[int]) -> int:
        """Four bytes a row and a column."""
        if len(shape) < 2:
            return self.vectors.num_bytes(shape)
        count = math.prod(shape)
        return _SCALE_BYTES * (count // shape[-1] + count // shape[-2])


def _smallest_over_axes(largest: Sequence[Tensor]) -> Tensor:
    """Spread each axis's values over the tensor and take the smallest at each place."""
    scale = largest[0].view(-1, *[1] * (len(largest) - 1))
    for axis, values in enumerate(largest[1:], start=1):
        scale = torch.minimum(scale, values.view(-1, *[1] * (len(largest) - 1 - axis)))
    return scale


def _nonzero(scale: Tensor) -> Tensor:
    """Divide by one where everything is zero: zero stays zero."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def _nearest(scaled: Tensor, values: Float[Tensor, "16"]) -> Tensor:
    """Give the number of the nearest value; halfway, of the smaller one.

    A binary search over the midpoints gives the same codes in several times the time: here a
    table tells how many of them lie below an element's bin, and which one may lie inside.
    """
    below, inside = (table.to(scaled.device) for table in _bins(tuple(values.tolist())))
    bins = (scaled * _BINS).floor().int().add_(_BINS).clamp_(0, 2 * _BINS)
    shape, bins = bins.shape, bins.view(-1)
    is_above = scaled > inside.index_select(0, bins).view(shape)
    return below.index_select(0, bins).view(shape) + is_above


@cache
def _bins(values: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """Midpoints below each bin's left edge, and the next one, for bins of [-1, 1]."""
    ascending = torch.tensor(values)
    between = (ascending[1:] + ascending[:-1]) / 2
    assert between.diff().min() > 1 / _BINS, "a bin holds one midpoint at most"
    below = torch.bucketize(torch.arange(-_BINS, _BINS + 1) / _BINS, between)
    inside = torch.cat([between, torch.tensor([math.inf])])[below]
    return below.to(torch.uint8), inside


def _looked_up(packed: Tensor, count: int, values: Float[Tensor, "16"]) -> Tensor:
    # Both values of a byte are found at once, which is faster than unpacking it first.
    pairs = torch.stack([values.repeat(_CODES), values.repeat_interleave(_CODES)], dim=1)
    return pairs.to(packed.device).index_select(0, packed.int()).view(-1)[:count]
