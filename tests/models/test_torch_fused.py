"""Operations with a backward pass of their own: the numbers and gradients of torch's own."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from yearling.models.torch_decoder.fused import rms_norm, silu_gate


def random(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    return values.requires_grad_()


@pytest.mark.parametrize("rows", [1, 7])
def test_rms_norm_is_torchs_with_its_gradients(rows: int) -> None:
    values, gain = random(rows, 12), random(12)
    expected = F.rms_norm(values, (12,), gain, eps=1e-5)
    torch.testing.assert_close(rms_norm(values, gain, 1e-5), expected)
    assert torch.autograd.gradcheck(lambda x, g: rms_norm(x, g, 1e-5), (values, gain))
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, None, 1e-5), (values,))
    frozen = gain.detach()
    assert torch.autograd.gradcheck(lambda x: rms_norm(x, frozen, 1e-5), (values,))


def test_silu_gate_is_torchs_with_its_gradients() -> None:
    opened, raised = random(5, 8), random(5, 9)[:, :8]
    torch.testing.assert_close(silu_gate(opened, raised), F.silu(opened) * raised)
    assert torch.autograd.gradcheck(silu_gate, (opened, raised))


@pytest.mark.parametrize(
    ("run", "kept"),
    [
        (lambda x, y: rms_norm(x, y[0].detach(), 1e-5), 2),
        (silu_gate, 2),
    ],
    ids=["rms_norm", "silu_gate"],
)
def test_only_inputs_are_kept(run: Callable[[Tensor, Tensor], Tensor], kept: int) -> None:
    """What is kept between forward and backward is the inputs, not what lies between."""
    sizes: list[int] = []

    def pack(value: Tensor) -> Tensor:
        sizes.append(value.numel())
        return value

    values, other = random(64, 32), random(64, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run(values, other)
    assert sum(size >= values.numel() for size in sizes) <= kept
