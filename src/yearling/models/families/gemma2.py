"""Gemma 2: Gemma with norms on either side of each branch, capped scores and logits.

Every second layer, the first among them, sees a window only.

Source: Gemma Team 2024, arXiv:2408.00118.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gemma_like import (
    GEMMA_KEYS,
    SANDWICH_NAMES,
    gemma_like_spec,
    gemma_like_spec_from_gguf,
    with_score_scale,
)
from yearling.models.gemma_like_export import gemma2_config, gemma2_gguf
from yearling.models.llama_like import change_attention, windows_from_config
from yearling.models.llama_like_gguf import own_settings
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["family", "names", "spec_from_config", "spec_from_gguf"]

_WINDOW = 4_096
_SCORE_CAP = 50.0
_LOGIT_CAP = 30.0
_LAYERS_OF_27B = 46  # whose scores go by the width per head, and GGUF does not say so


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return SANDWICH_NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json; caps that are not stated are the published ones, and null is none.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(GEMMA_KEYS)
    caps = {"attn_logit_softcapping": _SCORE_CAP, "final_logit_softcapping": _LOGIT_CAP}
    config = Fields(caps | dict(config.values), config.label)
    spec = gemma_like_spec(config, "gemma2", head_dim=256, is_sandwich=True)
    spec = with_score_scale(
        spec, config.label, config.number("query_pre_attn_scalar", 256, above=0)
    )
    window = config.integer("sliding_window", _WINDOW, minimum=1)
    windows = windows_from_config(config, len(spec.layers), window)
    if "layer_types" not in config:
        windows = _every_second(window, len(spec.layers))
    return _with_parts(spec, config, "attn_logit_softcapping", windows)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    spec = gemma_like_spec_from_gguf(file, "gemma2", is_sandwich=True)
    own = own_settings(file)
    if len(spec.layers) == _LAYERS_OF_27B:
        spec = with_score_scale(spec, own.label, spec.width / own.integer("attention.head_count"))
    window = own.integer("attention.sliding_window", _WINDOW, minimum=1)
    windows = _every_second(window, len(spec.layers))
    caps = Fields({"attn_logit_softcapping": _SCORE_CAP, **own.values}, own.label)
    return _with_parts(spec, caps, "attn_logit_softcapping", windows)


def _every_second(window: int, num_layers: int) -> list[int | None]:
    return [None if layer % 2 else window for layer in range(num_layers)]


def _with_parts(
    spec: ModelSpec, settings: Fields, key: str, windows: list[int | None]
) -> ModelSpec:
    cap = settings.number(key, above=0) if key in settings else None
    return change_attention(
        spec,
        lambda layer, mixer: replace(mixer, soft_cap=cap, window=windows[layer]),
        settings.label,
    )


family = families.register(
    Family(
        model_types=("gemma2",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("gemma2",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=gemma2_config,
        gguf_from_spec=gemma2_gguf,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
