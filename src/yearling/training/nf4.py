"""Four-bit NormalFloat weights in plain PyTorch, for machines where bitsandbytes does not run.

Source: Dettmers et al. 2023 (QLoRA), arXiv:2305.14314, section 3 and appendix E.

Legend: B blocks of 64 weights, G groups of 256 blocks.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from yearling.models.torch_decoder.leaves import TransposedLinear

__all__ = [
    "BLOCK",
    "GROUP",
    "NF4Linear",
    "NF4Tensor",
    "dequantise_nf4",
    "nf4_levels",
    "quantise_nf4",
]

BLOCK = 64
"""Weights that share a scale."""

GROUP = 256
"""Scales that share a scale of their own."""

_OUTERMOST = 0.9677083
"""Probability of the outermost level: the mean of 1 - 1/30 and 1 - 1/32, so that one code can be
zero and both sides still end at the same quantile."""


@cache
def nf4_levels() -> Float[Tensor, "16"]:
    """Give the sixteen values of a code: quantiles of a normal distribution, scaled to [-1, 1].

    Eight lie above zero and seven below, so that zero itself is exact.

    >>> [round(level, 4) for level in nf4_levels().tolist()[:8]]
    [-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.091, 0.0]
    """
    above = torch.linspace(_OUTERMOST, 0.5, 9, dtype=torch.float64)[:-1]
    below = torch.linspace(_OUTERMOST, 0.5, 8, dtype=torch.float64)[:-1]
    quantiles = torch.cat([-_quantile(below), torch.zeros(1), _quantile(above).flip(0)])
    return (quantiles / quantiles.abs().max()).float()


def _quantile(probability: Tensor) -> Tensor:
    return math.sqrt(2) * torch.erfinv(2 * probability - 1)


@dataclass(frozen=True, eq=False)
class NF4Tensor:
    """A quantised matrix.

    Attributes:
        codes: Two codes a byte, the first in the high half.
        scales: One byte for each block: its largest magnitude less the mean of all, as a signed
            fraction of its group's largest.
        group_scales: Largest deviation in each group of scales.
        mean: Mean of all blocks' largest magnitudes.
        shape: Of the matrix.
    """

    codes: UInt8[Tensor, " bytes"]
    scales: UInt8[Tensor, " B"]
    group_scales: Float[Tensor, " G"]
    mean: Float[Tensor, ""]
    shape: tuple[int, ...]

    @property
    def bits_per_weight(self) -> float:
        """Bits stored for each weight of the matrix; 4.127 for a large one."""
        stored = (self.codes, self.scales, self.group_scales, self.mean)
        return 8 * sum(part.nbytes for part in stored) / math.prod(self.shape)


def quantise_nf4(values: Float[Tensor, "*shape"]) -> NF4Tensor:
    """Quantise a matrix, and then the scales of its blocks.

    A last block that is not full is filled with zeros.
    """
    flat = values.detach().float().reshape(-1)
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    largest = blocks.abs().amax(dim=1)
    levels = nf4_levels().to(flat.device)
    # A value's code is the number of midpoints below it, so no distance to all levels is kept.
    bounds = (levels[1:] + levels[:-1]) / 2
    unit = blocks / largest.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = torch.bucketize(unit, bounds).to(torch.uint8).view(-1, 2)
    scales, group_scales, mean = _quantise_scales(largest)
    packed = codes[:, 0] << 4 | codes[:, 1]
    return NF4Tensor(packed, scales, group_scales, mean, tuple(values.shape))


def _quantise_scales(largest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    mean = largest.mean()
    padded = F.pad(largest - mean, (0, -len(largest) % GROUP)).view(-1, GROUP)
    group_scales = padded.abs().amax(dim=1)
    unit = padded / group_scales.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    levels = _scale_levels().to(largest.device)
    codes = torch.bucketize(unit, (levels[1:] + levels[:-1]) / 2).to(torch.uint8)
    return codes.reshape(-1)[: len(largest)].contiguous(), group_scales, mean


@cache
def _scale_levels() -> Tensor:
    """Values of a byte: a tree of seven decades, each with twice as many steps as the smaller."""
    magnitudes = [torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)]
    for decade in range(7):
        bounds = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float64)
        magnitudes.append((bounds[1:] + bounds[:-1]) / 2 * 10.0 ** (decade - 6))
    magnitude = torch.cat(magnitudes)
    return torch.cat([magnitude, -magnitude[(magnitude > 0) & (magnitude < 1)]]).sort()[0].float()


def dequantise_nf4(
    quantised: NF4Tensor, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Give the matrix that the codes stand for."""
    levels = nf4_levels().to(quantised.codes.device)
    codes = torch.stack([quantised.codes >> 4, quantised.codes & 15], dim=1)
    scales = _dequantise_scales(quantised)
    blocks = levels[codes.view(-1, BLOCK).int()] * scales[:, None]
    count = math.prod(quantised.shape)
    return blocks.view(-1)[:count].view(quantised.shape).to(dtype)


def _dequantise_scales(quantised: NF4Tensor) -> Tensor:
    levels = _scale_levels().to(quantised.scales.device)
    scales = levels[quantised.scales.int()]
    groups = quantised.group_scales.repeat_interleave(GROUP)[: len(scales)]
    return scales * groups + quantised.mean


class NF4Linear(nn.Module):
    """A frozen linear layer whose weight is kept in four bits.

    The weight exists in full only while a product with it is computed, in the forward pass and
    once more in the backward pass.

    Attributes:
        in_features: Width of its inputs.
        out_features: Width of its outputs.
        compute_dtype: What the weight becomes for a product.
    """

    codes: Tensor
    scales: Tensor
    group_scales: Tensor
    mean: Tensor

    def __init__(
        self, weight: Float[Tensor, "outputs inputs"], bias: Float[Tensor, " outputs"] | None = None
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.compute_dtype = weight.dtype
        quantised = quantise_nf4(weight)
        self.register_buffer("codes", quantised.codes)
        self.register_buffer("scales", quantised.scales)
        self.register_buffer("group_scales", quantised.group_scales)
        self.register_buffer("mean", quantised.mean)
        frozen = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)
        self.bias = frozen

    @classmethod
    def of(cls, leaf: nn.Linear | TransposedLinear) -> "NF4Linear":
        """Quantise a linear layer, whichever way round it stores its weight."""
        weight = leaf.weight.T if isinstance(leaf, TransposedLinear) else leaf.weight
        return cls(weight, leaf.bias)

    @property
    def quantised(self) -> NF4Tensor:
        """The weight as it is stored."""
        shape = (self.out_features, self.in_features)
        return NF4Tensor(self.codes, self.scales, self.group_scales, self.mean, shape)

    @property
    def weight(self) -> Float[Tensor, "outputs inputs"]:
        """The weight in full, made anew every time."""
        return dequantise_nf4(self.quantised, self.compute_dtype)

    def forward(self, values: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Compute values @ weight.T + bias."""
        product: Tensor = _Product.apply(values, self)  # type: ignore[no-untyped-call]
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def to_linear(self) -> nn.Linear:
        """Make the full linear layer that computes the same."""
        made = nn.Linear(
            self.in_features, self.out_features, bias=self.bias is not None, device="meta"
        )
        made.weight = nn.Parameter(self.weight, requires_grad=False)
        if self.bias is not None:
            made.bias = nn.Parameter(self.bias.detach().clone(), requires_grad=False)
        return made


class _Product(torch.autograd.Function):
    """Product with a frozen weight that is made when needed, so that the graph keeps none."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, layer: NF4Linear) -> Tensor:
        ctx.layer = layer
        return F.linear(values, layer.weight.to(values.dtype))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        return gradient @ ctx.layer.weight.to(gradient.dtype), None
