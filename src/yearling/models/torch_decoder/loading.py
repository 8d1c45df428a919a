"""Filling a decoder: from a checkpoint of any format, or with random values to train from."""

import math

import torch
from torch import Tensor

from yearling.models.checkpoint import Checkpoint
from yearling.models.checkpoint.formats import to_float32
from yearling.models.places import Place
from yearling.models.spec import ModelSpec, Norm
from yearling.models.torch_decoder.decoder import TorchDecoder, norm_of
from yearling.models.weights import Weight

__all__ = ["initialise", "load_torch_decoder", "put_weight"]

_SMALLEST_STEP, _LARGEST_STEP = 1e-3, 0.1  # Mamba's first time steps, log-uniform between


def load_torch_decoder(
    checkpoint: Checkpoint,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    spec: ModelSpec | None = None,
) -> TorchDecoder:
    """Make a decoder and fill it from a checkpoint, one weight at a time.

    Args:
        dtype: Type of its parameters.
        device: Where they are.
        spec: In place of the checkpoint's: the same weights with other positions, say.
    Raises:
        ModelFormatError: a tensor cannot be read.
    """
    decoder = TorchDecoder(spec or checkpoint.spec, checkpoint.family, device=device, dtype=dtype)
    parameters = dict(decoder.named_parameters())
    with torch.no_grad():
        for weight, place in decoder.places.items():
            values = torch.from_numpy(to_float32(checkpoint.weight(weight)))
            put_weight(parameters[place.name], place, values)
    return decoder


def put_weight(stored: Tensor, place: Place, values: Tensor) -> None:
    """Write a weight in canonical form to its rows of the parameter that holds it."""
    rows = stored.T if place.is_transposed else stored
    if rows.dim() == 3:  # stacked experts, or a convolution's taps
        rows = rows.view(-1, rows.shape[-1])
    if place.rows is None:
        rows.copy_(values.view_as(rows))
    else:
        rows[torch.from_numpy(place.rows).to(rows.device)] = values.to(rows)


def initialise(decoder: TorchDecoder, *, seed: int, std: float = 0.02) -> None:
    """Give every parameter the value that training starts from.

    Matrices and tables are normal, those that write to the residual stream narrower by
    sqrt(2 · layers); norms begin as plain norms, biases at zero, and a state space as Mamba does.

    Args:
        seed: Decides all values, whatever the device.
        std: Standard deviation of matrices and tables.
    Source: Radford et al. 2019 (GPT-2); Gu and Dao 2023, arXiv:2312.00752, section 3.6.
    """
    generator = torch.Generator().manual_seed(seed)
    parameters = dict(decoder.named_parameters())
    with torch.no_grad():
        for weight, place in decoder.places.items():
            values = _first_values(decoder, weight, std, generator)
            put_weight(parameters[place.name], place, values)


def _first_values(
    decoder: TorchDecoder, weight: Weight, std: float, generator: torch.Generator
) -> Tensor:
    shape, role = weight.shape, weight.role
    if role == "time_step" and weight.part == "bias":
        low, high = math.log(_SMALLEST_STEP), math.log(_LARGEST_STEP)
        step = (torch.rand(shape, generator=generator) * (high - low) + low).exp()
        return step + torch.log(-torch.expm1(-step))  # what softplus turns into the step
    if weight.part == "bias":
        return torch.zeros(shape)
    if role.endswith("_norm"):
        norm: Norm = norm_of(decoder.spec, weight)
        return torch.full(shape, 1.0 - norm.weight_offset)
    if role == "skip":
        return torch.ones(shape)
    if role == "state_matrix":
        return torch.arange(1, shape[1] + 1).float().log().expand(shape)
    if role == "convolution":
        return (torch.rand(shape, generator=generator) * 2 - 1) / math.sqrt(shape[1])
    if role in ("output", "state_output", "down", "shared_down"):
        std /= math.sqrt(2 * len(decoder.spec.layers))
    return torch.randn(shape, generator=generator) * std
