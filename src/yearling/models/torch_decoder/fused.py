"""Operations with a backward pass of their own, which keeps less and computes in fewer passes.

Written out in torch's terms they give the same numbers and gradients; between forward and
backward they hold only their inputs.

Legend: T tokens, E width, F width of the MLP.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["rms_norm", "silu_gate"]


def rms_norm(
    values: Float[Tensor, "*rows E"], gain: Float[Tensor, " E"] | None, epsilon: float
) -> Float[Tensor, "*rows E"]:
    """Divide each row by its root mean square, and multiply by a gain.

    Keeps the row and one number of it; torch's operations keep the row three times.
    """
    return _RmsNorm.apply(values, gain, epsilon)  # type: ignore[no-any-return, no-untyped-call]


def silu_gate(opened: Float[Tensor, "T F"], raised: Float[Tensor, "T F"]) -> Float[Tensor, "T F"]:
    """Compute silu(opened) · raised, keeping both and nothing else."""
    return _SiluGate.apply(opened, raised)  # type: ignore[no-any-return, no-untyped-call]


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, gain: Tensor | None, epsilon: float) -> Tensor:
        width = values.shape[-1]
        length = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
        inverse = length.square_().div_(width).add_(epsilon).rsqrt_()
        ctx.save_for_backward(values, gain, inverse)
        normed: Tensor = values * inverse
        return normed if gain is None else normed.mul_(gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, gain, inverse = ctx.saved_tensors
        wanted, gain_wanted = ctx.needs_input_grad[:2]
        own = upstream if gain is None else upstream * gain
        gradient = None
        if wanted:
            along = torch.linalg.vecdot(own, values)[..., None]
            along.mul_(inverse.pow(3)).div_(-values.shape[-1])
            gradient = (own * inverse).addcmul_(values, along)
        if not gain_wanted:
            return gradient, None, None
        of_gain = (upstream * values).mul_(inverse).flatten(0, -2).sum(0)
        return gradient, of_gain, None


class _SiluGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, opened: Tensor, raised: Tensor) -> Tensor:
        ctx.save_for_backward(opened, raised)
        return F.silu(opened).mul_(raised)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, Tensor]:
        opened, raised = ctx.saved_tensors
        of_raised = F.silu(opened).mul_(upstream)
        return torch.ops.aten.silu_backward(upstream * raised, opened), of_raised
