"""Baichuan and Baichuan 2: LLaMA's layout with one fused projection.

The 7B models rotate. The 13B models bias scores by distance (ALiBi), and say so only by naming
their context `model_max_length` and no position table. Baichuan 2 normalises the rows of its
head (NormHead); it is told by its vocabulary or by the weight of its z-loss.

Source: Yang et al. 2023, arXiv:2309.10305.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import (
    LLAMA_KEYS,
    LLAMA_NAMES,
    change_attention,
    llama_like_spec,
)
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    interleaved_row_order,
    llama_like_spec_from_gguf,
    own_settings,
)
from yearling.models.sizes import read_context
from yearling.models.spec import Alibi, Attention, Head, ModelSpec, Rotary
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

_CONFIG_KEYS = LLAMA_KEYS | {
    *("_from_model_config", "gradient_checkpointing"),
    *("model_max_length", "z_loss_weight"),
}
_NORM_HEAD_VOCABULARY = 125_696
_FUSED = "model.layers.{layer}.self_attn.W_pack"
_NAMES: Mapping[Role, WeightName] = {
    **LLAMA_NAMES,
    "query": WeightName(_FUSED, "blk.{layer}.attn_q"),
    "key": WeightName(_FUSED, "blk.{layer}.attn_k"),
    "value": WeightName(_FUSED, "blk.{layer}.attn_v"),
}
_LAYERS_OF_7B, _LAYERS_OF_13B = 32, 40  # by which llama.cpp tells the models apart as well


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight; GGUF keeps query, key and value apart."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    has_alibi = "max_position_embeddings" not in config
    spec = llama_like_spec(config, "baichuan")
    if has_alibi:
        spec = replace(spec, context=read_context(config, "model_max_length"))
    has_z_loss = "z_loss_weight" in config
    return _as_published(spec, config.label, has_alibi=has_alibi, has_z_loss=has_z_loss)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file, where the number of layers tells 13B.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(LLAMA_GGUF_KEYS)
    spec = llama_like_spec_from_gguf(file, "baichuan")
    has_alibi = len(spec.layers) == _LAYERS_OF_13B
    return _as_published(spec, own.label, has_alibi=has_alibi, has_z_loss=False)


def _as_published(spec: ModelSpec, label: str, *, has_alibi: bool, has_z_loss: bool) -> ModelSpec:
    if spec.vocabulary == _NORM_HEAD_VOCABULARY or has_z_loss:
        assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
        spec = replace(spec, head=replace(spec.head, is_normalised=True))
    if has_alibi:
        spec = change_attention(spec, lambda _, mixer: replace(mixer, positions=Alibi()), label)
    return spec


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json; the 13B models are told by the name of their context.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    config = llama_like_config(_rotating(spec), "baichuan", "BaichuanForCausalLM")
    for key in ("head_dim", "num_key_value_heads"):
        del config[key]
    if _has_alibi(spec):
        del config["rope_theta"]
        config["model_max_length"] = config.pop("max_position_embeddings")
    if isinstance(spec.head, Head) and spec.head.is_normalised:
        config["z_loss_weight"] = 0
    return config


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata; llama.cpp tells the models apart by their layers.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    layers = _LAYERS_OF_13B if _has_alibi(spec) else _LAYERS_OF_7B
    if len(spec.layers) != layers:
        raise ModelFormatError(
            f"GGUF's baichuan rotates with {_LAYERS_OF_7B} layers and has ALiBi with "
            f"{_LAYERS_OF_13B}; this model is another, with {len(spec.layers)} layers."
        )
    if isinstance(spec.head, Head) and spec.head.is_normalised:
        raise ModelFormatError(
            "llama.cpp does not normalise the head of Baichuan 2, so a GGUF file of it would "
            "compute something else there."
        )
    return llama_like_gguf(_rotating(spec), "baichuan")


def _has_alibi(spec: ModelSpec) -> bool:
    mixer = spec.layers[0].mixer
    return isinstance(mixer, Attention) and isinstance(mixer.positions, Alibi)


def _rotating(spec: ModelSpec) -> ModelSpec:
    """Give the spec as if it rotated: what else it states is the same for both."""
    if not _has_alibi(spec):
        return spec

    def change(_: int, mixer: Attention) -> Attention:
        return replace(mixer, positions=Rotary(mixer.head_dim))

    return change_attention(spec, change, spec.family)


family = families.register(
    Family(
        model_types=("baichuan",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("baichuan",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq", "future_mask", "alibi_mask"),
    ),
    __name__,
)
