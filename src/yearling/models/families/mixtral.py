"""Mixtral 8x7B: Mistral's layout, where each token visits two of eight experts.

Its GGUF files have the architecture `llama`.

Source: Jiang et al. 2024, arXiv:2401.04088.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.llama_like import (
    LLAMA_KEYS,
    LLAMA_NAMES,
    change_attention,
    llama_like_spec,
)
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.llama_like_gguf import interleaved_row_order
from yearling.models.sizes import read_heads
from yearling.models.spec import Experts, Gated, ModelSpec
from yearling.models.weights import Role, WeightName

__all__ = ["config_from_spec", "family", "gguf_from_spec", "names", "spec_from_config"]

_CONFIG_KEYS = LLAMA_KEYS | {
    "num_experts_per_tok",
    "num_local_experts",
    "output_router_logits",  # for the training loss
    "router_aux_loss_coef",
    "router_jitter_noise",  # training only
    "sliding_window",
}
_DEFAULTS = {"rms_norm_eps": 1e-5, "rope_theta": 1e6}  # others than LLaMA's
_BLOCK = "model.layers.{layer}.block_sparse_moe"
_NAMES: Mapping[Role, WeightName] = {
    **LLAMA_NAMES,
    "router": WeightName(f"{_BLOCK}.gate", "blk.{layer}.ffn_gate_inp"),
    "gate": WeightName(f"{_BLOCK}.experts.{{expert}}.w1", "blk.{layer}.ffn_gate_exps"),
    "up": WeightName(f"{_BLOCK}.experts.{{expert}}.w3", "blk.{layer}.ffn_up_exps"),
    "down": WeightName(f"{_BLOCK}.experts.{{expert}}.w2", "blk.{layer}.ffn_down_exps"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight; GGUF stacks the experts of a layer."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    spec = llama_like_spec(Fields({**_DEFAULTS, **config.values}, config.label), "mixtral")
    count = read_heads(config, "num_local_experts")
    active = config.integer("num_experts_per_tok", minimum=1, maximum=count)
    expert = spec.layers[0].mlp
    assert isinstance(expert, Gated), "a LLaMA-like MLP is gated"
    layers = tuple(replace(layer, mlp=Experts(count, active, expert)) for layer in spec.layers)
    window = config.integer("sliding_window", minimum=1) if "sliding_window" in config else None
    return change_attention(
        replace(spec, layers=layers), lambda _, mixer: replace(mixer, window=window), config.label
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    plain, experts = _of_one_expert(spec)
    return llama_like_config(plain, "mixtral", "MixtralForCausalLM") | {
        "num_experts_per_tok": experts.active,
        "num_local_experts": experts.count,
        "sliding_window": None,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `llama`.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    plain, experts = _of_one_expert(spec)
    counts = {"expert_count": experts.count, "expert_used_count": experts.active}
    return llama_like_gguf(plain, "llama", **counts)


def _of_one_expert(spec: ModelSpec) -> tuple[ModelSpec, Experts]:
    """Give the spec as if each layer had one expert, and what they are."""
    experts = spec.layers[0].mlp
    assert isinstance(experts, Experts), "every Mixtral has experts"
    layers = tuple(replace(layer, mlp=experts.expert) for layer in spec.layers)
    return replace(spec, layers=layers), experts


family = families.register(
    Family(
        model_types=("mixtral",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_row_order=interleaved_row_order,
        ignored=("rotary_emb.inv_freq", "rope_freqs.weight"),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
