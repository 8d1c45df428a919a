"""Eight bits through bitsandbytes: near AdamW, a quarter of its state, refused by name."""

import sys
from types import SimpleNamespace

import pytest
import torch

from tests.training.optimizers.quadratic import distance, make, parameters, train
from yearling.core.errors import UnsupportedError
from yearling.training.optimizers import optimizers

pytestmark = pytest.mark.slow
KIND = optimizers.get("adamw_8bit")


def test_it_trains_as_adamw_does_in_a_quarter_of_the_state() -> None:
    ends = {}
    for name in ("adamw", "adamw_8bit"):
        kind, weights = optimizers.get(name), parameters()
        train(kind, make(kind, weights, lr=0.02), weights, 40)
        ends[name] = distance(weights).item()
    assert ends["adamw_8bit"] == pytest.approx(ends["adamw"], rel=0.02)
    weight, full = torch.nn.Parameter(torch.zeros(512, 512)), optimizers.get("adamw")
    share = KIND.state_bytes(weight, KIND.config()) / full.state_bytes(weight, full.config())
    assert share < 0.26


def test_codes_are_bytes_and_small_tensors_keep_float32() -> None:
    weights = parameters()
    optimizer = make(KIND, weights, lr=0.02)
    train(KIND, optimizer, weights, 1)
    assert optimizer.state[weights[0]]["state1"].dtype == torch.uint8
    assert optimizer.state[weights[2]]["state1"].dtype == torch.float32


def test_a_device_without_the_kernel_is_refused_by_name(monkeypatch) -> None:
    def refuse(*_) -> None:
        raise NotImplementedError("no kernel")

    monkeypatch.setattr("bitsandbytes.optim.AdamW8bit.step", refuse)
    with pytest.raises(UnsupportedError, match=r"device 'cpu': no kernel\. Take 'adamw_4bit'"):
        make(KIND, parameters())


def test_a_machine_without_bitsandbytes_is_told_what_to_do(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UnsupportedError, match=r"needs bitsandbytes.*Install yearling\[train\]"):
        make(KIND, parameters())


def test_an_old_bitsandbytes_is_refused(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(optim=SimpleNamespace()))
    with pytest.raises(UnsupportedError, match=r"cannot step on device 'cpu'"):
        make(KIND, parameters())
