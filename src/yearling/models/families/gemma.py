"""Gemma: LLaMA's layout with tanh-GELU gates, offset norms and a scaled, tied embedding.

Source: Gemma Team 2024, arXiv:2403.08295.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gemma_like import (
    GEMMA_KEYS,
    GEMMA_NAMES,
    gemma_like_spec,
    gemma_like_spec_from_gguf,
)
from yearling.models.gemma_like_export import gemma_config, gemma_gguf
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["family", "names", "spec_from_config", "spec_from_gguf"]

_LATER_KEYS = {
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "layer_types",
    "query_pre_attn_scalar",
    "sliding_window",
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return GEMMA_NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(GEMMA_KEYS - _LATER_KEYS)
    return gemma_like_spec(config, "gemma", head_dim=256, is_sandwich=False)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    return gemma_like_spec_from_gguf(file, "gemma", is_sandwich=False)


family = families.register(
    Family(
        model_types=("gemma",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("gemma",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=gemma_config,
        gguf_from_spec=gemma_gguf,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
