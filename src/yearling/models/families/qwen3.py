"""Qwen 3: LLaMA's layout with heads of their own size, and queries and keys normed per head.

Source: Yang et al. 2025, arXiv:2505.09388.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_NAMES, change_attention, llama_like_spec
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    own_settings,
)
from yearling.models.qwen_windows import QWEN_KEYS, with_qwen_windows
from yearling.models.spec import Attention, ModelSpec
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = [
    "config_from_spec",
    "family",
    "gguf_from_spec",
    "names",
    "spec_from_config",
    "spec_from_gguf",
]

_ATTENTION = "model.layers.{layer}.self_attn"
_NAMES: Mapping[Role, WeightName] = {
    **LLAMA_NAMES,
    "query_norm": WeightName(f"{_ATTENTION}.q_norm", "blk.{layer}.attn_q_norm"),
    "key_norm": WeightName(f"{_ATTENTION}.k_norm", "blk.{layer}.attn_k_norm"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(QWEN_KEYS | {"attention_bias"})
    has_bias = config.flag("attention_bias", False)
    spec = llama_like_spec(
        config, "qwen3", head_dim=128, has_qkv_bias=has_bias, has_output_bias=has_bias
    )
    return with_qwen_windows(config, _with_norms(spec, config.label))


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(LLAMA_GGUF_KEYS)
    return _with_norms(llama_like_spec_from_gguf(file, "qwen3"), own.label)


def _with_norms(spec: ModelSpec, label: str) -> ModelSpec:
    norm = spec.final_norm
    return change_attention(
        spec, lambda _, mixer: replace(mixer, query_norm=norm, key_norm=norm), label
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    config = llama_like_config(spec, "qwen3", "Qwen3ForCausalLM")
    attention = spec.layers[0].mixer
    assert isinstance(attention, Attention), "has just been read as such"
    return config | {"attention_bias": attention.has_qkv_bias}


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "qwen3")


family = families.register(
    Family(
        model_types=("qwen3",),
        spec_from_config=spec_from_config,
        names=names,
        prefixes=("model.",),
        gguf_architectures=("qwen3",),
        spec_from_gguf=spec_from_gguf,
        ignored=("rotary_emb.inv_freq",),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
