"""The factored form: Adafactor's second moment under Adam's first."""

import torch

from tests.training.optimizers.quadratic import make, parameters, train
from yearling.training.optimizers import optimizers

KIND = optimizers.get("factor_4bit")


def test_first_step_is_adamws_and_leaves_the_means_of_squares() -> None:
    weights = parameters()[:1]
    before = weights[0].detach().clone()
    optimizer = make(KIND, weights, lr=0.1)
    gradient = torch.randn(before.shape, generator=torch.Generator().manual_seed(3))
    weights[0].grad = gradient
    optimizer.step()
    # Nothing has been compressed yet, and the corrections undo the shares of old and new.
    torch.testing.assert_close(
        weights[0].detach(), before - 0.1 * gradient.sign(), atol=1e-4, rtol=0
    )
    kept = optimizer.state[weights[0]]
    torch.testing.assert_close(kept["second.rows"], 0.001 * gradient.square().mean(1))
    torch.testing.assert_close(kept["second.columns"], 0.001 * gradient.square().mean(0))


def test_state_is_half_of_adamw_4bits() -> None:
    sizes = {}
    for name in ("adamw", "adamw_4bit", "factor_4bit"):
        kind = optimizers.get(name)
        weight = torch.nn.Parameter(torch.zeros(512, 512))
        sizes[name] = kind.state_bytes(weight, kind.config())
    assert sizes["adamw_4bit"] < sizes["adamw"] / 7
    assert sizes["factor_4bit"] < sizes["adamw_4bit"] * 0.55


def test_rows_and_columns_are_all_that_is_kept_of_the_second_moment() -> None:
    weights = parameters()
    optimizer = make(KIND, weights, lr=0.01)
    train(KIND, optimizer, weights, 2)
    kept = {key: tuple(v.shape) for key, v in optimizer.state[weights[0]].items()}
    rows, columns = weights[0].shape
    assert kept["second.rows"] == (rows,)
    assert kept["second.columns"] == (columns,)
    assert "second.codes" not in kept
