"""QLoRA: LoRA over a base whose linear layers are kept in four bits.

Use it where the base does not fit: a weight takes 4.127 bits, and each layer is made full only
while it computes. The updates stay in float32. The file is an ordinary LoRA adapter; it was trained
against the rounded base, and fits that best.

Source: Dettmers et al. 2023, arXiv:2305.14314.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field
from torch import nn

from yearling.core.errors import ConfigError
from yearling.models.torch_decoder import TorchDecoder
from yearling.models.torch_decoder.leaves import TransposedLinear
from yearling.models.torch_decoder.tree import plant
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.lora_layers import (
    LowRank,
    attach_low_rank,
    load_low_rank,
    merge_low_rank,
    save_low_rank,
    without_low_rank,
)
from yearling.training.nf4 import NF4Linear
from yearling.training.targets import find_linear, linear_leaves

__all__ = ["QLoraConfig", "quantise_base"]

Backend = Literal["auto", "bitsandbytes", "torch"]


class QLoraConfig(LowRank):
    """Options of QLoRA."""

    backend: Backend = Field(
        default="auto",
        description="Who computes with four bits: bitsandbytes, our own torch, or the first on "
        "CUDA and the second elsewhere.",
    )


def quantise_base(decoder: TorchDecoder, backend: Backend = "auto") -> None:
    """Put layers of four bits in the place of all linear layers but the head.

    Raises:
        ConfigError: bitsandbytes is asked for and not installed.
    """
    chosen = _choose(decoder, backend)
    for name in _base_leaves(decoder):
        leaf = decoder.get_submodule(name)
        if isinstance(leaf, NF4Linear):
            continue
        assert isinstance(leaf, nn.Linear | TransposedLinear)
        plant(decoder, name, NF4Linear.of(leaf) if chosen == "torch" else _bitsandbytes(leaf))


def _base_leaves(decoder: TorchDecoder) -> Iterator[str]:
    for name, roles in linear_leaves(decoder).items():
        if "head" not in roles:
            yield name


def _choose(decoder: TorchDecoder, backend: Backend) -> Backend:
    if backend == "torch":
        return backend
    is_on_cuda = next(decoder.parameters()).device.type == "cuda"
    try:
        import bitsandbytes  # noqa: F401 - whether it is there
    except ImportError:
        if backend == "bitsandbytes":
            raise ConfigError(
                "backend=bitsandbytes, but bitsandbytes is not installed. Install it, or take "
                "backend=torch."
            ) from None
        return "torch"
    return "bitsandbytes" if backend == "bitsandbytes" or is_on_cuda else "torch"


def _bitsandbytes(leaf: nn.Linear | TransposedLinear) -> nn.Module:
    from bitsandbytes.nn.modules import Linear4bit, Params4bit

    is_transposed = isinstance(leaf, TransposedLinear)
    weight = (leaf.weight.T if is_transposed else leaf.weight).detach().contiguous()
    made = Linear4bit(  # type: ignore[no-untyped-call]
        leaf.in_features,
        leaf.out_features,
        bias=leaf.bias is not None,
        compute_dtype=weight.dtype,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    made.weight = Params4bit(
        weight, requires_grad=False, quant_type="nf4", compress_statistics=True, module=made
    )
    if leaf.bias is not None:
        made.bias = nn.Parameter(leaf.bias.detach().clone(), requires_grad=False)
    return made.to(weight.device)  # this quantises


def _attach(decoder: TorchDecoder, config: QLoraConfig, seed: int) -> None:
    find_linear(decoder, config.targets)  # a wrong target is refused before anything changes
    quantise_base(decoder, config.backend)
    attach_low_rank(decoder, config, seed)


adapter = adapters.register(
    AdapterKind(
        summary="LoRA over a base of four bits a weight.",
        source="Dettmers et al. 2023, arXiv:2305.14314",
        config=QLoraConfig,
        attach=_attach,
        save=save_low_rank,
        load=load_low_rank,
        merge=merge_low_rank,
        disabled=without_low_rank,
    ),
    __name__,
)
