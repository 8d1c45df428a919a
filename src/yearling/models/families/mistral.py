"""Mistral 7B: LLaMA's layout with grouped queries and a sliding window (v0.1: 4,096 tokens).

Source: Jiang et al. 2023, arXiv:2310.06825.
"""

from dataclasses import replace
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import (
    LLAMA_KEYS,
    change_attention,
    llama_like_names,
    llama_like_spec,
    windows_from_config,
)
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import interleaved_row_order
from yearling.models.spec import Attention, ModelSpec

__all__ = ["config_from_spec", "family", "gguf_from_spec", "spec_from_config"]

_PUBLISHED_WINDOW = 4_096


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json; a window that is not stated is v0.1's, and null is none (v0.2).

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(LLAMA_KEYS | {"layer_types", "sliding_window"})
    spec = llama_like_spec(config, "mistral")
    window: int | None = None
    if "sliding_window" in config or "sliding_window" not in config.values:
        window = config.integer("sliding_window", _PUBLISHED_WINDOW, minimum=1)
    windows = windows_from_config(config, len(spec.layers), window)
    return change_attention(
        spec, lambda layer, mixer: replace(mixer, window=windows[layer]), config.label
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    windows = _windows(spec)
    if len(windows) != 1:
        raise ModelFormatError("a Mistral with windows of several sizes is not written yet.")
    plain = change_attention(spec, lambda _, mixer: replace(mixer, window=None), spec.family)
    config = llama_like_config(plain, "mistral", "MistralForCausalLM")
    return config | {"sliding_window": windows.pop()}


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `llama`, which knows no window.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    if windows := _windows(spec) - {None}:
        raise ModelFormatError(
            "GGUF's llama has no place for the windows on attention of family mistral. Set "
            f"sliding_window to null in config.json: up to {windows.pop()} tokens it is the same "
            "model."
        )
    return llama_like_gguf(spec, "llama")


def _windows(spec: ModelSpec) -> set[int | None]:
    return {layer.mixer.window for layer in spec.layers if isinstance(layer.mixer, Attention)}


family = families.register(
    Family(
        model_types=("mistral",),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        prefixes=("model.",),
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq",),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
