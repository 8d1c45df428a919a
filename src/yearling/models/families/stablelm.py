"""StableLM-Epoch: LLaMA's layout with layer norms, and a quarter of each head rotated.

Source: Tow et al. 2023, the technical report of StableLM-3B-4E1T.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import (
    LLAMA_KEYS,
    change_attention,
    llama_like_names,
    llama_like_spec,
)
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    norm_from_gguf,
    own_settings,
)
from yearling.models.rotary_settings import partial_rotary_from_config
from yearling.models.spec import Attention, ModelSpec, Norm, Rotary

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["config_from_spec", "family", "gguf_from_spec", "spec_from_config", "spec_from_gguf"]

_CONFIG_KEYS = LLAMA_KEYS | {
    "hidden_dropout",  # training only
    "layer_norm_eps",
    "norm_eps",
    "partial_rotary_factor",
    "rope_pct",
    "rotary_scaling_factor",
    "use_qkv_bias",
}


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of `stablelm`, or of `stablelm_epoch` as it was first published.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    if config.number("rotary_scaling_factor", 1.0) != 1:
        raise config.error("rotary_scaling_factor", "must be 1; no model had another")
    epsilon = config.number("norm_eps" if "norm_eps" in config else "layer_norm_eps", 1e-5, above=0)
    norm = Norm("layer", epsilon, has_bias=True)
    plain = Fields({**config.values, "rope_parameters": None}, config.label)
    has_bias = config.flag("use_qkv_bias", False)
    spec = llama_like_spec(plain, "stablelm", norm=norm, has_qkv_bias=has_bias)
    key = "rope_pct" if "rope_pct" in config else "partial_rotary_factor"
    rotary = partial_rotary_from_config(
        config,
        spec.width // config.integer("num_attention_heads"),
        spec.context,
        default_fraction=0.25,
        fraction_key=key,
    )
    return change_attention(spec, lambda _, mixer: replace(mixer, positions=rotary), config.label)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(LLAMA_GGUF_KEYS | {"use_parallel_residual"})
    if "blk.0.ffn_norm.weight" not in file.tensors:
        raise own.error("use_parallel_residual", "is of StableLM 2 12B, which is not read")
    norm = norm_from_gguf(file, "layer")
    return llama_like_spec_from_gguf(file, "stablelm", norm=norm, is_partial=True)


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of `stablelm`.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    config = llama_like_config(spec, "stablelm", "StableLmForCausalLM")
    attention = spec.layers[0].mixer
    assert isinstance(attention, Attention), "a LLaMA-like layer attends"
    assert isinstance(attention.positions, Rotary), "has just been read as such"
    del config["head_dim"]
    return config | {
        "layer_norm_eps": config.pop("rms_norm_eps"),
        "partial_rotary_factor": attention.positions.dims / attention.head_dim,
        "use_qkv_bias": attention.has_qkv_bias,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "stablelm", use_parallel_residual=True)


family = families.register(
    Family(
        model_types=("stablelm", "stablelm_epoch"),
        spec_from_config=spec_from_config,
        names=llama_like_names,
        gguf_architectures=("stablelm",),
        spec_from_gguf=spec_from_gguf,
        ignored=("rotary_emb.inv_freq",),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
