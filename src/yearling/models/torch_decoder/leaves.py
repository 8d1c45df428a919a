"""The leaf modules of a decoder, with the parameters that Hugging Face gives them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from yearling.models import spec
from yearling.models.torch_decoder.fused import rms_norm

__all__ = ["Norm", "TransposedLinear", "activate", "normalise"]


class TransposedLinear(nn.Module):
    """A linear layer whose weight is stored as (inputs, outputs), as GPT-2 stores it."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs
        self.weight = nn.Parameter(torch.empty(inputs, outputs, device="meta", dtype=dtype))
        empty = torch.empty(outputs, device="meta", dtype=dtype)
        self.bias = nn.Parameter(empty) if bias else None

    def forward(self, values: Float[Tensor, "*rows inputs"]) -> Float[Tensor, "*rows outputs"]:
        """Compute values @ weight + bias."""
        return F.linear(values, self.weight.T, self.bias)


class Norm(nn.Module):
    """A normalisation over the last axis, as its spec says.

    Attributes:
        norm: The spec.
    """

    def __init__(self, norm: spec.Norm, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = norm
        empty = torch.empty(width, device="meta", dtype=dtype)
        self.weight = nn.Parameter(empty) if norm.has_weight else None
        self.bias = nn.Parameter(empty.clone()) if norm.has_bias else None

    def forward(self, values: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows width"]:
        """Normalise each row."""
        return normalise(values, self.norm, self.weight, self.bias)


def normalise(
    values: Float[Tensor, "*rows width"],
    norm: spec.Norm,
    weight: Float[Tensor, " width"] | None = None,
    bias: Float[Tensor, " width"] | None = None,
) -> Float[Tensor, "*rows width"]:
    """Normalise over the last axis, in float32 whatever the type of the values.

    >>> normalise(torch.tensor([[3.0, 4.0]]), spec.Norm(epsilon=0.0)).tolist()
    [[0.8485281467437744, 1.1313709020614624]]
    """
    wide = values.float()
    gain = None if weight is None else weight.float()
    if gain is not None and norm.weight_offset:
        gain = gain + norm.weight_offset
    if norm.kind == "layer":
        shift = None if bias is None else bias.float()
        normed = F.layer_norm(wide, values.shape[-1:], gain, shift, norm.epsilon)
        return normed.to(values.dtype)
    return rms_norm(wide, gain, norm.epsilon).to(values.dtype)


def activate(
    values: Float[Tensor, "*rows width"], activation: spec.Activation
) -> Float[Tensor, "*rows width"]:
    """Apply an activation to every entry.

    >>> activate(torch.tensor([-1.0, 2.0]), "relu_squared").tolist()
    [0.0, 4.0]
    """
    match activation:
        case "silu":
            return F.silu(values)
        case "gelu":
            return F.gelu(values)
        case "gelu_tanh":
            return F.gelu(values, approximate="tanh")
        case "quick_gelu":
            return values * torch.sigmoid(1.702 * values)
        case "relu":
            return F.relu(values)
        case "relu_squared":
            return F.relu(values).square()
