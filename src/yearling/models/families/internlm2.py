"""InternLM 2: LLaMA's layout under names of its own, with query, key and value fused by group.

Source: Cai et al. 2024, arXiv:2403.17297.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, llama_like_spec
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    interleaved_row_order,
    llama_like_spec_from_gguf,
    own_settings,
)
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

_BLOCK = "model.layers.{layer}"
_FUSED = f"{_BLOCK}.attention.wqkv"
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("model.tok_embeddings", "token_embd"),
    "mixer_norm": WeightName(f"{_BLOCK}.attention_norm", "blk.{layer}.attn_norm"),
    "query": WeightName(_FUSED, "blk.{layer}.attn_q", rows="groups"),
    "key": WeightName(_FUSED, "blk.{layer}.attn_k", rows="groups"),
    "value": WeightName(_FUSED, "blk.{layer}.attn_v", rows="groups"),
    "output": WeightName(f"{_BLOCK}.attention.wo", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName(f"{_BLOCK}.ffn_norm", "blk.{layer}.ffn_norm"),
    "gate": WeightName(f"{_BLOCK}.feed_forward.w1", "blk.{layer}.ffn_gate"),
    "up": WeightName(f"{_BLOCK}.feed_forward.w3", "blk.{layer}.ffn_up"),
    "down": WeightName(f"{_BLOCK}.feed_forward.w2", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("model.norm", "output_norm"),
    "head": WeightName("output", "output"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight; GGUF keeps query, key and value apart."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(LLAMA_KEYS | {"attn_implementation", "bias"})
    has_bias = config.flag("bias", True)
    return llama_like_spec(config, "internlm2", has_qkv_bias=has_bias, has_output_bias=has_bias)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own_settings(file).refuse_unknown(LLAMA_GGUF_KEYS)
    return llama_like_spec_from_gguf(file, "internlm2")


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention = spec.layers[0].mixer
    config = llama_like_config(spec, "internlm2", "InternLM2ForCausalLM")
    assert isinstance(attention, Attention), "has just been read as such"
    del config["head_dim"]
    return config | {"bias": attention.has_qkv_bias}


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "internlm2")


family = families.register(
    Family(
        model_types=("internlm2",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("internlm2",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
