"""Rotary positions in torch, from the frequencies that every interpreter reads.

Legend: T tokens of a step, H heads, D head size.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from yearling.kernels.ops import Stretch
from yearling.models.rotary import rotary_frequencies, rotary_stretch
from yearling.models.spec import Rotary
from yearling.models.torch_decoder.segments import Positions

__all__ = ["Angles", "angles_of", "rotate"]

Angles = tuple[Tensor, Tensor]
"""Cosine and sine of every token's angles, each (T, 1, dims/2)."""


def angles_of(rotary: Rotary, positions: Positions) -> Angles:
    """Cosine and sine for a packed batch; a two-dimensional layout has both halves in a row."""
    frequencies, factor = rotary_frequencies(rotary)
    device = positions.token.device
    plain = torch.from_numpy(frequencies).to(device)
    stretch = rotary_stretch(rotary)
    is_flat = rotary.layout == "two_dimensional"
    channels = (positions.span, positions.block) if is_flat else (positions.token,)
    if stretch is None:
        angles = [channel[:, None].float() * plain for channel in channels]
        factors = torch.tensor([[factor]], device=device)
    else:
        stretched, growth = _stretched(stretch, 2 * len(frequencies), positions.length)
        angles = [channel[:, None].float() * stretched for channel in channels]
        factors = growth * factor
    angle = torch.cat(angles, dim=-1)
    return (angle.cos() * factors)[:, None, :], (angle.sin() * factors)[:, None, :]


def rotate(heads: Float[Tensor, "T H D"], angles: Angles, rotary: Rotary) -> Float[Tensor, "T H D"]:
    """Rotate the first dims of each head, in float32 whatever the type of the heads."""
    cosine, sine = angles
    wide = heads[..., : rotary.dims].float()
    if rotary.layout == "interleaved":
        first, second = wide[..., 0::2], wide[..., 1::2]
        pairs = first * cosine - second * sine, second * cosine + first * sine
        turned = torch.stack(pairs, dim=-1).flatten(-2)
    elif rotary.layout == "half":
        turned = _rotate_halves(wide, cosine, sine)
    else:
        half = rotary.dims // 4
        turned = torch.cat(
            [
                _rotate_halves(part, cosine[..., pairs], sine[..., pairs])
                for part, pairs in (
                    (wide[..., : 2 * half], slice(0, half)),
                    (wide[..., 2 * half :], slice(half, None)),
                )
            ],
            dim=-1,
        )
    turned = turned.to(heads.dtype)
    if rotary.dims == heads.shape[-1]:
        return turned
    return torch.cat([turned, heads[..., rotary.dims :]], dim=-1)


def _rotate_halves(values: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = values.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


def _stretched(
    stretch: Stretch, dims: int, lengths: Int[Tensor, " T"]
) -> tuple[Float[Tensor, "T pairs"], Float[Tensor, "T 1"]]:
    """Frequencies at each token's length, and the factor on cosine and sine."""
    # float64: a power of a power loses digits that long sequences multiply.
    ratio = lengths[:, None].double() / stretch.trained
    if stretch.kind == "stepped_ntk":
        reached = stretch.factor * ratio.clamp(min=1)
        growth = (2 ** torch.ceil(torch.log2(reached) + 1) - 1).clamp(min=1)
    else:
        growth = (stretch.factor * ratio - (stretch.factor - 1)).clamp(min=1)
    base = stretch.base * growth ** (dims / (dims - 2))
    exponents = torch.arange(0, dims, 2, device=lengths.device).double() / dims
    factor = torch.ones_like(ratio)
    if stretch.has_length_factor:
        factor = 0.1 * ratio.clamp(min=1).log() + 1
    return (base**-exponents).float(), factor.float()
