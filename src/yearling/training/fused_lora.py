"""A linear layer with a low-rank update as one operation, which keeps only its input.

PEFT's layer adds the update in four steps, each with a result of its own of the layer's size. Here
the update is added in place by the products themselves. Numbers and gradients are the same.

Legend: T tokens, I inputs, O outputs, r rank.
"""

from functools import cache
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


@cache
def _has_faster_product() -> bool:
    """Whether oneDNN's product of float32 matrices is faster here than that of PyTorch's choice.

    PyTorch asks MKL, which keeps to AVX2 on AMD's processors. oneDNN goes by what the processor
    can do, and reaches 2.2 times the rate on a Zen 5.
    """
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return has_onednn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _linear(
    values: Float[Tensor, "T I"], weight: Float[Tensor, "O I"], bias: Tensor | None = None
) -> Float[Tensor, "T O"]:
    """Compute values @ weight.T + bias; either may be a transposed view."""
    is_plain = values.device.type == "cpu" and values.dtype == torch.float32 and values.numel()
    if not is_plain or not _has_faster_product():
        return F.linear(values, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(values, weight, bias, "none", [], "")
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
        narrow = _linear(values, first)
        result = _linear(values, weight, bias)
        result.addmm_(narrow, second.T, alpha=scaling)
        ctx.save_for_backward(values, weight, first, second, narrow)
        ctx.scaling = scaling
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, first, second, narrow = ctx.saved_tensors
        back = _linear(upstream, second.T).mul_(ctx.scaling)
        of_values = None
        if ctx.needs_input_grad[0]:
            of_values = _linear(upstream, weight.T).addmm_(back, first)
        of_first = _linear(back.T, values.T)
        of_second = _linear(narrow.T, upstream.T).mul_(ctx.scaling).T
        return of_values, None, None, of_first, of_second, None
