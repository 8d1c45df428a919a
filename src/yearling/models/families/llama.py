"""LLaMA and everything shaped like it: Llama 2 and 3, Code Llama, SmolLM2, Yi, Vicuna.

Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288 (grouped queries).
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, llama_like_names, llama_like_spec
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    interleaved_row_order,
    llama_like_spec_from_gguf,
    own_settings,
)
from yearling.models.spec import Attention, Experts, Gated, ModelSpec

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["config_from_spec", "family", "gguf_from_spec", "spec_from_config", "spec_from_gguf"]

_CONFIG_KEYS = LLAMA_KEYS | {"attention_bias", "is_llama_config", "mlp_bias"}


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json as transformers 4 or 5 writes it.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    has_bias = config.flag("attention_bias", False)
    return llama_like_spec(
        config,
        "llama",
        has_qkv_bias=has_bias,
        has_output_bias=has_bias,
        has_mlp_bias=config.flag("mlp_bias", False),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `llama`, which Mixtral has as well.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own_settings(file).refuse_unknown(LLAMA_GGUF_KEYS)
    spec = llama_like_spec_from_gguf(file, "llama")
    has_experts = isinstance(spec.layers[0].mlp, Experts)
    return replace(spec, family="mixtral") if has_experts else spec


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    config = llama_like_config(spec, "llama", "LlamaForCausalLM")
    attention, mlp = spec.layers[0].mixer, spec.layers[0].mlp
    assert isinstance(attention, Attention), "has just been read as such"
    assert isinstance(mlp, Gated), "has just been read as such"
    return config | {"attention_bias": attention.has_qkv_bias, "mlp_bias": mlp.has_bias}


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "llama")


family = families.register(
    Family(
        model_types=("llama",),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        prefixes=("model.",),
        gguf_architectures=("llama",),
        spec_from_gguf=spec_from_gguf,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq", "rope_freqs.weight"),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
