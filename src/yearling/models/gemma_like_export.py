"""Gemma 3 to config.json and to GGUF: the inverse of its family's readers."""

from dataclasses import replace
from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.llama_like import change_attention
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.rotary_export import rotary_to_config
from yearling.models.spec import Attention, Gated, Head, ModelSpec, Rotary

__all__ = ["gemma3_config", "gemma3_gguf"]

_PERIOD = 6
_LOCAL = Rotary(2).base  # GGUF does not state the base of local layers


def gemma3_config(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    local, everywhere = _parts(spec)
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    config = llama_like_config(_skeleton(spec, everywhere), "gemma3_text", "Gemma3ForCausalLM")
    del config["hidden_act"]
    divisor = everywhere.head_dim if everywhere.scale is None else round(everywhere.scale**-2)
    return config | {
        "attention_bias": everywhere.has_qkv_bias,
        "final_logit_softcapping": spec.head.soft_cap,
        "hidden_activation": "gelu_pytorch_tanh",
        "layer_types": [
            "full_attention" if attention.window is None else "sliding_attention"
            for attention in _attentions(spec)
        ],
        "query_pre_attn_scalar": divisor,
        "rope_local_base_freq": rotary_to_config(_rotary(local))["rope_theta"],
        "sliding_window": local.window,
        "tie_word_embeddings": spec.head.is_tied,
    }


def gemma3_gguf(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    local, everywhere = _parts(spec)
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    windows = [attention.window for attention in _attentions(spec)]
    usual = [None if (n + 1) % _PERIOD == 0 else local.window for n in range(len(windows))]
    if windows != usual or _rotary(local) != Rotary(local.head_dim, _LOCAL):
        raise ModelFormatError(
            "GGUF's gemma3 has a window in five layers of six, and a local base of 10,000; this "
            "model has others."
        )
    if everywhere.scale is not None:
        raise ModelFormatError(
            f"GGUF's gemma3 divides scores by the root of the head size; this model multiplies "
            f"them by {everywhere.scale}."
        )
    metadata = llama_like_gguf(_skeleton(spec, everywhere), "gemma3")
    if spec.head.soft_cap is not None:
        metadata["gemma3.final_logit_softcapping"] = spec.head.soft_cap
    return metadata | {"gemma3.attention.sliding_window": local.window}


def _skeleton(spec: ModelSpec, everywhere: Attention) -> ModelSpec:
    """What is left of the spec once it is taken for LLaMA's."""
    mlp = spec.layers[0].mlp
    assert isinstance(mlp, Gated), "a LLaMA-like MLP is gated"
    layers = tuple(replace(layer, mlp=replace(mlp, activation="silu")) for layer in spec.layers)
    return change_attention(replace(spec, layers=layers), lambda *_: everywhere, spec.family)


def _parts(spec: ModelSpec) -> tuple[Attention, Attention]:
    """Give the attention of local layers, and that of the others.

    Raises:
        ModelFormatError: all layers are of one kind.
    """
    attentions = _attentions(spec)
    local = [attention for attention in attentions if attention.window is not None]
    everywhere = [attention for attention in attentions if attention.window is None]
    if not local or not everywhere:
        raise ModelFormatError("a Gemma 3 whose layers all see the same is not converted.")
    return local[0], everywhere[0]


def _attentions(spec: ModelSpec) -> list[Attention]:
    return [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Attention)]


def _rotary(attention: Attention) -> Rotary:
    assert isinstance(attention.positions, Rotary), "Gemma rotates"
    return attention.positions
