"""Gemma 3: five layers with a window and a slow rotary base, then one that sees everything.

Beyond Gemma 2, queries and keys are normed per head and scores are no longer capped.

Source: Gemma Team 2025, arXiv:2503.19786.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gemma_like import (
    GEMMA_KEYS,
    SANDWICH_NAMES,
    gemma_like_spec,
    gemma_like_spec_from_gguf,
    with_score_scale,
)
from yearling.models.gemma_like_export import gemma3_config, gemma3_gguf
from yearling.models.llama_like import change_attention, windows_from_config
from yearling.models.llama_like_gguf import own_settings
from yearling.models.rotary_settings import rotary_from_config
from yearling.models.spec import Attention, ModelSpec, Norm, Rotary
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["family", "names", "spec_from_config", "spec_from_gguf"]

_CONFIG_KEYS = GEMMA_KEYS - {"attn_logit_softcapping"} | {
    "_sliding_window_pattern",
    "rope_local_base_freq",
    "sliding_window_pattern",
}
_LOCAL_BASE = 10_000.0
_GLOBAL_BASE = 1_000_000.0
_PERIOD = 6
_LAYERS_OF_27B = 62  # whose scores go by the width per head, and GGUF does not say so
_ATTENTION = "model.layers.{layer}.self_attn"
_NAMES: Mapping[Role, WeightName] = {
    **SANDWICH_NAMES,
    "query_norm": WeightName(
        f"{_ATTENTION}.q_norm", "blk.{layer}.attn_q_norm", gguf_value="plus_one"
    ),
    "key_norm": WeightName(
        f"{_ATTENTION}.k_norm", "blk.{layer}.attn_k_norm", gguf_value="plus_one"
    ),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of the text model.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    local, everywhere = _rotary_fields(config)
    spec = gemma_like_spec(everywhere, "gemma3", head_dim=256, is_sandwich=True)
    spec = with_score_scale(
        spec, config.label, config.number("query_pre_attn_scalar", 256, above=0)
    )
    window = config.integer("sliding_window", 4_096, minimum=1)
    windows = windows_from_config(config, len(spec.layers), window)
    if "layer_types" not in config:
        key = "sliding_window_pattern"
        key = key if key in config else f"_{key}"
        windows = _windows(window, len(spec.layers), config.integer(key, _PERIOD, minimum=1))
    head_dim = config.integer("head_dim", 256)
    rotary = rotary_from_config(local, head_dim, spec.context)
    return _with_parts(spec, windows, rotary, config.label)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file, which states the base of global layers alone.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    spec = gemma_like_spec_from_gguf(file, "gemma3", is_sandwich=True)
    own = own_settings(file)
    if len(spec.layers) == _LAYERS_OF_27B:
        spec = with_score_scale(spec, own.label, spec.width / own.integer("attention.head_count"))
    window = own.integer("attention.sliding_window", minimum=1)
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Attention), "a LLaMA-like layer attends"
    rotary = Rotary(mixer.head_dim, own.number("rope.freq_base_swa", _LOCAL_BASE, above=0))
    return _with_parts(spec, _windows(window, len(spec.layers), _PERIOD), rotary, own.label)


def _rotary_fields(config: Fields) -> tuple[Fields, Fields]:
    """Give the settings as local and as global layers read them."""
    parameters = config.inner("rope_parameters")
    values: dict[str, Any] = {"rope_theta": _GLOBAL_BASE, **config.values}
    local: dict[str, Any] = {**config.values, "rope_scaling": None}
    local["rope_theta"] = config.number("rope_local_base_freq", _LOCAL_BASE, above=0)
    if parameters is not None and "full_attention" in parameters:
        values |= {"rope_parameters": parameters.values["full_attention"], "rope_scaling": None}
        local["rope_parameters"] = parameters.values.get("sliding_attention")
    elif parameters is not None:
        local["rope_parameters"] = None
    return Fields(local, config.label), Fields(values, config.label)


def _windows(window: int, num_layers: int, period: int) -> list[int | None]:
    return [None if (layer + 1) % period == 0 else window for layer in range(num_layers)]


def _with_parts(spec: ModelSpec, windows: list[int | None], local: Rotary, label: str) -> ModelSpec:
    norm = spec.final_norm
    assert isinstance(norm, Norm), "a LLaMA-like model ends in a norm"

    def change(layer: int, mixer: Attention) -> Attention:
        mixer = replace(mixer, query_norm=norm, key_norm=norm, window=windows[layer])
        return mixer if windows[layer] is None else replace(mixer, positions=local)

    return change_attention(spec, change, label)


family = families.register(
    Family(
        model_types=("gemma3_text",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("gemma3",),
        spec_from_gguf=spec_from_gguf,
        ignored=("rotary_emb.inv_freq",),
        config_from_spec=gemma3_config,
        gguf_from_spec=gemma3_gguf,
    ),
    __name__,
)
