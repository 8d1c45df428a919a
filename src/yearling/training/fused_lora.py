"""A linear layer with a low-rank update as one operation, which keeps only its input.

PEFT's layer adds the update in four steps, each with a result of its own of the layer's size. Here
the update is added in place by the products themselves. Numbers and gradients are the same.

Legend: T tokens, I inputs, O outputs, r rank.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from peft.tuners.lora import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["FusedLoraLinear", "lora_linear"]


class FusedLoraLinear(Linear):
    """PEFT's LoRA layer; it computes as one operation where that says the same."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Compute x @ weight.T + bias, and the update of the one active adapter."""
        base = self.base_layer
        if args or kwargs or not self._is_plain(x) or type(base) is not nn.Linear:
            return super().forward(x, *args, **kwargs)
        (name,) = self.active_adapters
        update = (
            self.lora_A[name].get_parameter("weight"),
            self.lora_B[name].get_parameter("weight"),
        )
        return lora_linear(x, (base.weight, base.bias), update, self.scaling[name])

    def _is_plain(self, x: Tensor) -> bool:
        """Whether one adapter acts, without dropout, on float32 rows of a frozen layer."""
        if self.disable_adapters or self.merged or len(self.active_adapters) != 1:
            return False
        (name,) = self.active_adapters
        if name not in self.lora_A or name in self.lora_variant:
            return False
        weights = (self.base_layer.weight, self.lora_A[name].weight, self.lora_B[name].weight)
        is_float = all(values.dtype == torch.float32 for values in (x, *weights))
        has_dropout = not isinstance(self.lora_dropout[name], nn.Identity)
        # Autocast does not know the device on which `yearling plan` counts memory.
        is_mixed = x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)
        return is_float and not (has_dropout or is_mixed or self.base_layer.weight.requires_grad)


def lora_linear(
    values: Float[Tensor, "T I"],
    base: tuple[Float[Tensor, "O I"], Float[Tensor, " O"] | None],
    update: tuple[Float[Tensor, "r I"], Float[Tensor, "O r"]],
    scaling: float,
) -> Float[Tensor, "T O"]:
    """Compute values @ W.T + bias + scaling · values @ A.T @ B.T, where only A and B learn.

    Args:
        base: W and its bias or None, frozen.
        update: A and B.
        scaling: Factor on the update.
    Source: Hu et al. 2021, arXiv:2106.09685, eq. 3.
    """
    result: Tensor = _LoraLinear.apply(values, *base, *update, scaling)  # type: ignore[no-untyped-call]
    return result


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        first: Tensor,
        second: Tensor,
        scaling: float,
    ) -> Tensor:
        narrow = values @ first.T
        result = F.linear(values, weight, bias)
        result.addmm_(narrow, second.T, alpha=scaling)
        ctx.save_for_backward(values, weight, first, second, narrow)
        ctx.scaling = scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, first, second, narrow = ctx.saved_tensors
        back = (upstream @ second).mul_(ctx.scaling)
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = (upstream @ weight).addmm_(back, first)
        of_first = back.T @ values
        of_second = (narrow.T @ upstream).mul_(ctx.scaling).T
        return of_values, None, None, of_first, of_second, None
