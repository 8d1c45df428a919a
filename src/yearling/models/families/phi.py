"""Phi-1.5 and Phi-2: attention and MLP side by side after one norm, with biases everywhere.

Source: Li et al. 2023, arXiv:2309.05463; configuration of microsoft/phi-2.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.export_parts import rotary_of, shared_parts
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, LLAMA_NAMES
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    norm_from_gguf,
    own_settings,
)
from yearling.models.phi_like import as_phi, phi_like_spec
from yearling.models.sizes import read_hidden
from yearling.models.spec import (
    Attention,
    ModelSpec,
    Plain,
)
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

_CONFIG_KEYS = LLAMA_KEYS - {"rms_norm_eps"} | {
    "embd_pdrop",  # training only
    "layer_norm_eps",
    "partial_rotary_factor",
    "resid_pdrop",  # training only
}
_BLOCK = "model.layers.{layer}"
_NAMES: Mapping[Role, WeightName] = {
    **{role: LLAMA_NAMES[role] for role in ("embedding", "mixer_norm", "query", "key", "value")},
    "output": WeightName(f"{_BLOCK}.self_attn.dense", "blk.{layer}.attn_output"),
    "up": WeightName(f"{_BLOCK}.mlp.fc1", "blk.{layer}.ffn_up"),
    "down": WeightName(f"{_BLOCK}.mlp.fc2", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("model.final_layernorm", "output_norm"),
    "head": LLAMA_NAMES["head"],
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json; a head's normed queries and keys (`qk_layernorm`) are refused.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    return phi_like_spec(config, "phi")


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `phi2`.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(LLAMA_GGUF_KEYS)
    norm = norm_from_gguf(file, "layer")
    spec = llama_like_spec_from_gguf(file, "phi", norm=norm, is_partial=True)
    mlp = Plain(read_hidden(own, "feed_forward_length"), "gelu_tanh")
    mixer = spec.layers[0].mixer
    assert isinstance(mixer, Attention)
    return as_phi(spec, mixer.positions, mlp, norm)


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, _, _ = shared_parts(spec)
    config = llama_like_config(spec, "phi", "PhiForCausalLM")
    del config["head_dim"]
    return config | {
        "layer_norm_eps": config.pop("rms_norm_eps"),
        "partial_rotary_factor": rotary_of(attention).dims / attention.head_dim,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `phi2`.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "phi2")


family = families.register(
    Family(
        model_types=("phi",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("phi2",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
