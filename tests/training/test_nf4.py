"""NormalFloat against bitsandbytes, and against coarser ways to four bits."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from yearling.training.nf4 import NF4Linear, dequantise_nf4, nf4_levels, quantise_nf4


def weights(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(6)) * 0.03


def error(approximate: torch.Tensor, exact: torch.Tensor) -> float:
    return float((approximate - exact).square().mean())


def rounded_int4(values: torch.Tensor) -> torch.Tensor:
    """Sixteen even steps up to each block's largest magnitude."""
    blocks = values.reshape(-1, 64)
    step = blocks.abs().amax(1, keepdim=True) / 7
    return ((blocks / step).round().clamp(-8, 7) * step).view_as(values)


def with_bitsandbytes(values: torch.Tensor, kind: str) -> torch.Tensor:
    functional = pytest.importorskip("bitsandbytes.functional")
    packed, state = functional.quantize_4bit(values, quant_type=kind, compress_statistics=True)
    restored: torch.Tensor = functional.dequantize_4bit(packed, state)
    return restored


def test_levels_are_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.get_4bit_type("nf4", device="cpu")
    torch.testing.assert_close(nf4_levels(), theirs, atol=1e-6, rtol=0)
    assert 0.0 in nf4_levels().tolist()


def test_codes_are_bitsandbytes() -> None:
    functional = pytest.importorskip("bitsandbytes.functional")
    values = weights(300, 320)
    packed, state = functional.quantize_4bit(values, quant_type="nf4", compress_statistics=True)
    ours = quantise_nf4(values)
    assert torch.equal(ours.codes, packed.flatten())
    # A scale that lies between two of the 256 may fall to either.
    assert (ours.scales != state.absmax).float().mean() < 0.01
    restored = functional.dequantize_4bit(packed, state)
    torch.testing.assert_close(dequantise_nf4(ours), restored, atol=1e-3, rtol=0)


def test_error_is_below_other_four_bits() -> None:
    values = weights(512, 256)
    ours = error(dequantise_nf4(quantise_nf4(values)), values)
    assert ours < 0.9 * error(rounded_int4(values), values)
    assert ours < 0.9 * error(with_bitsandbytes(values, "fp4"), values)


@pytest.mark.slow
def test_error_is_below_other_four_bits_on_a_real_model(smollm2_path: Path) -> None:
    from yearling.models.checkpoint import open_checkpoint
    from yearling.models.checkpoint.formats import to_float32
    from yearling.models.weights import weights_of

    checkpoint = open_checkpoint(smollm2_path)
    chosen = [w for w in weights_of(checkpoint.spec) if w.layer in (0, 14, 29)]
    matrices = [w for w in chosen if w.role in ("query", "down")]
    assert len(matrices) == 6
    for weight in matrices:
        values = torch.from_numpy(to_float32(checkpoint.weight(weight)).copy())
        ours = error(dequantise_nf4(quantise_nf4(values)), values)
        assert ours < error(rounded_int4(values), values)
        assert ours < error(with_bitsandbytes(values, "fp4"), values)


def test_a_weight_takes_4_127_bits() -> None:
    assert quantise_nf4(weights(1024, 512)).bits_per_weight == pytest.approx(4.127, abs=5e-4)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 64), (65, 33)])
def test_odd_shapes_come_back(shape: tuple[int, int]) -> None:
    values = weights(*shape)
    back = dequantise_nf4(quantise_nf4(values))
    assert back.shape == values.shape
    torch.testing.assert_close(back, values, atol=0.02, rtol=0)


def test_zero_stays_zero() -> None:
    assert not dequantise_nf4(quantise_nf4(torch.zeros(4, 64))).any()


def test_layer_computes_with_the_rounded_weight_and_its_gradient() -> None:
    layer = NF4Linear(weights(48, 64), bias=torch.ones(48))
    values = weights(5, 64).requires_grad_()
    output = layer(values)
    torch.testing.assert_close(output, F.linear(values, layer.weight, layer.bias))
    output.square().sum().backward()
    expected = (2 * output.detach()) @ layer.weight
    torch.testing.assert_close(values.grad, expected)
    assert not [name for name, p in layer.named_parameters() if p.requires_grad]


def test_layer_keeps_no_full_weight_between_forward_and_backward() -> None:
    layer = NF4Linear(weights(96, 128))
    kept: list[tuple[int, ...]] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        layer(weights(5, 128).requires_grad_())
    assert (96, 128) not in kept
    assert not any(b.dtype.is_floating_point and b.numel() > 4 for b in layer.buffers())
