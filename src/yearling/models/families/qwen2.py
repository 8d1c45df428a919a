"""Qwen 2 and 2.5: LLaMA's layout with biases on query, key and value.

Source: Yang et al. 2024, arXiv:2407.10671.
"""

from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import llama_like_names, llama_like_spec
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    own_settings,
)
from yearling.models.qwen_windows import QWEN_KEYS, with_qwen_windows
from yearling.models.spec import ModelSpec

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["config_from_spec", "family", "gguf_from_spec", "spec_from_config", "spec_from_gguf"]


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(QWEN_KEYS)
    return with_qwen_windows(config, llama_like_spec(config, "qwen2", has_qkv_bias=True))


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own_settings(file).refuse_unknown(LLAMA_GGUF_KEYS)
    return llama_like_spec_from_gguf(file, "qwen2")


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_config(spec, "qwen2", "Qwen2ForCausalLM")


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "qwen2")


family = families.register(
    Family(
        model_types=("qwen2",),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        prefixes=("model.",),
        gguf_architectures=("qwen2",),
        spec_from_gguf=spec_from_gguf,
        ignored=("rotary_emb.inv_freq",),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
