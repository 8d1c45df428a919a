"""Adafactor: its size, and its relative steps."""

import torch

from tests.training.optimizers.quadratic import make
from yearling.training.optimizers import optimizers

KIND = optimizers.get("adafactor")


def test_state_of_a_matrix_is_a_row_and_a_column() -> None:
    weight = torch.nn.Parameter(torch.zeros(512, 300))
    assert KIND.state_bytes(weight, KIND.config()) == 4 * (512 + 300) + 4


def test_a_step_is_relative_to_the_size_of_the_weights() -> None:
    moved = []
    for size in (1.0, 100.0):
        weight = torch.nn.Parameter(torch.full((8, 8), size))
        weight.grad = torch.ones(8, 8)
        make(KIND, [weight], lr=0.01).step()
        moved.append((size - weight.detach()).mean().item())
    assert abs(moved[0] - 0.01) < 1e-4
    assert abs(moved[1] / moved[0] - 100) < 1
