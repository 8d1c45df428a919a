"""Skywork 13B: the arithmetic and the names of LLaMA, deeper and narrower.

Source: Wei et al. 2023, arXiv:2310.19341, table 3.
"""

from typing import Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, llama_like_names, llama_like_spec
from yearling.models.llama_like_export import llama_like_gguf
from yearling.models.llama_like_gguf import interleaved_row_order
from yearling.models.spec import ModelSpec

__all__ = ["family", "gguf_from_spec", "spec_from_config"]


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(LLAMA_KEYS)
    return llama_like_spec(config, "skywork")


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `llama`, which computes the same.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "llama")


family = families.register(
    Family(
        model_types=("skywork",),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq",),
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
