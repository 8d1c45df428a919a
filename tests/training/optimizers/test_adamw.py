"""AdamW: the textbook's step."""

import torch

from tests.training.optimizers.quadratic import make, parameters
from yearling.training.optimizers import optimizers


def test_steps_are_the_formula_written_out() -> None:
    weights = parameters()
    twins = [weight.detach().clone() for weight in weights]
    means = [torch.zeros_like(twin) for twin in twins]
    squares = [torch.zeros_like(twin) for twin in twins]
    optimizer = make(optimizers.get("adamw"), weights, lr=0.02, weight_decay=0.1, beta2=0.95)
    for step in range(1, 5):
        for number, twin in enumerate(twins):
            generator = torch.Generator().manual_seed(10 * step + number)
            gradient = torch.randn(twin.shape, generator=generator)
            weights[number].grad = gradient
            means[number] = 0.9 * means[number] + 0.1 * gradient
            squares[number] = 0.95 * squares[number] + 0.05 * gradient**2
            root = (squares[number] / (1 - 0.95**step)).sqrt() + 1e-8
            twin *= 1 - 0.02 * 0.1
            twin -= 0.02 * (means[number] / (1 - 0.9**step)) / root
        optimizer.step()
    for weight, twin in zip(weights, twins, strict=True):
        torch.testing.assert_close(weight.detach(), twin, rtol=1e-5, atol=1e-6)


def test_the_fused_kernel_is_used_where_there_is_one() -> None:
    optimizer = make(optimizers.get("adamw"), parameters())
    assert optimizer.defaults["fused"] is True
    meta = [torch.nn.Parameter(torch.zeros(3, device="meta"))]
    assert optimizers.get("adamw").build(
        [{"params": meta}], optimizers.get("adamw").config()
    ).defaults["fused"] is False  # fmt: skip
