"""P-tuning v2: a learned prefix of keys and values in every layer, and nothing else is trained.

Use it for one task with little data and a very small file. The prefix takes positions of the
context, and cannot be merged into the weights. Its values are trained as they are, without the
network that the paper puts before them for some tasks.

Source: Liu et al. 2021, arXiv:2110.07602, section 3.2.

Legend: P tokens of the prefix, G key heads, D head size.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from yearling.core.config import Config
from yearling.core.errors import ConfigError, ModelFormatError, UnsupportedError
from yearling.models.spec import Attention, ModelSpec
from yearling.models.torch_decoder import FixedKeys, Segments, TorchDecoder
from yearling.training.adapters import AdapterKind, adapters
from yearling.training.peft_folder import read_peft_folder, write_peft_folder

__all__ = ["PTuningConfig", "Prefix"]

_TENSOR = "prompt_embeddings"
_KNOWN = (
    *("num_virtual_tokens", "num_layers", "token_dim", "num_attention_heads", "init_weights"),
    *("num_transformer_submodules", "encoder_hidden_size"),
)


class PTuningConfig(Config):
    """Options of P-tuning v2."""

    prefix_tokens: int = Field(default=32, ge=1, description="Tokens P of the prefix.")
    std: float = Field(
        default=0.02, gt=0, description="Standard deviation of the prefix's first values."
    )


class Prefix(nn.Module):
    """Keys and values that every sequence begins with.

    Attributes:
        values: For each token the key and value of each layer in turn (P, layers * 2 * G * D).
        shape: (P, layers, 2, G, D).
        is_on: Whether the decoder uses it.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        self.shape = shape
        self.is_on = True
        width = shape[1] * shape[2] * shape[3] * shape[4]
        self.values = nn.Parameter(torch.empty(shape[0], width, device=device))

    def keys_for(self, segments: Segments) -> FixedKeys:
        """Give the cache of a step whose sequences begin behind the prefix."""
        keys, values = self.values.view(self.shape).permute(2, 1, 0, 3, 4)
        return FixedKeys(segments, keys, values)


def _prepend(
    decoder: nn.Module, args: tuple[Any, ...], options: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Let the sequences of a step begin behind the prefix."""
    prefix = decoder.get_submodule("prefix")
    assert isinstance(prefix, Prefix)
    if not prefix.is_on:
        return None
    if options.get("cache") is not None:
        raise UnsupportedError(
            "a decoder with a learned prefix goes on from no cache. Serve the adapter with PEFT."
        )
    tokens, segments = args
    starts = [segment.start + prefix.shape[0] for segment in segments]
    moved = replace(segments, starts=starts)
    return (tokens, moved), {**options, "cache": prefix.keys_for(moved)}


def _prefix_of(decoder: TorchDecoder) -> Prefix:
    return decoder.get_submodule("prefix")  # type: ignore[return-value]


def _attach(decoder: TorchDecoder, config: PTuningConfig, seed: int) -> None:
    if hasattr(decoder, "prefix"):
        raise ConfigError("this decoder has a prefix already; load the base again.")
    heads, head_dim = _key_shape(decoder.spec)
    shape = (config.prefix_tokens, len(decoder.spec.layers), 2, heads, head_dim)
    device = next(decoder.parameters()).device
    prefix = Prefix(shape, device)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        first = torch.randn(prefix.values.shape, generator=generator) * config.std
        prefix.values.copy_(first)
    decoder.requires_grad_(False)
    decoder.add_module("prefix", prefix)
    decoder.register_forward_pre_hook(_prepend, with_kwargs=True)


def _key_shape(spec: ModelSpec) -> tuple[int, int]:
    """Key heads and their size, which PEFT's format has one pair of."""
    shapes = set()
    for number, layer in enumerate(spec.layers):
        if not isinstance(layer.mixer, Attention) or layer.mixer.mask != "causal":
            raise UnsupportedError(
                f"p_tuning prepends to causal attention; layer {number} has none."
            )
        shapes.add((layer.mixer.kv_heads, layer.mixer.head_dim))
    if len(shapes) > 1:
        raise UnsupportedError(
            f"p_tuning needs one shape of keys, this model has {sorted(shapes)}."
        )
    return shapes.pop()


def _save(decoder: TorchDecoder, config: PTuningConfig, folder: Path, base: str) -> None:
    prefix = _prefix_of(decoder)
    tokens, layers, _, heads, head_dim = prefix.shape
    settings = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "num_virtual_tokens": tokens,
        "num_layers": layers,
        "num_attention_heads": heads,
        "token_dim": heads * head_dim,
        "num_transformer_submodules": 1,
        "prefix_projection": False,
    }
    write_peft_folder(folder, settings, {_TENSOR: prefix.values})


def _load(decoder: TorchDecoder, folder: Path) -> None:
    saved = read_peft_folder(folder)
    if saved.settings.get("peft_type") != "PREFIX_TUNING":
        kind = saved.settings.get("peft_type")
        raise ModelFormatError(f"{folder}: peft_type={kind!r} is no prefix.")
    saved.refuse_settings(*_KNOWN)
    values: Float[Tensor, "P width"] | None = saved.tensors.get(_TENSOR)
    own = _prefix_of(decoder).values
    if values is None or values.shape != own.shape:
        found = "none" if values is None else tuple(values.shape)
        raise ModelFormatError(f"{folder}: {_TENSOR} is {found}, the decoder's {tuple(own.shape)}.")
    with torch.no_grad():
        own.copy_(values)


def _merge(decoder: TorchDecoder) -> None:
    raise UnsupportedError(
        "a learned prefix is keys and values, not weights, so nothing can be merged. Serve it with "
        "PEFT, or train lora instead."
    )


@contextmanager
def _without(decoder: TorchDecoder) -> Iterator[TorchDecoder]:
    prefix = _prefix_of(decoder)
    was_on, prefix.is_on = prefix.is_on, False
    try:
        yield decoder
    finally:
        prefix.is_on = was_on


adapter = adapters.register(
    AdapterKind(
        summary="A learned prefix of keys and values in every layer.",
        source="Liu et al. 2021, arXiv:2110.07602",
        config=PTuningConfig,
        attach=_attach,
        save=_save,
        load=_load,
        merge=_merge,
        disabled=_without,
    ),
    __name__,
)
