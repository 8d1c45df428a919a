"""The generations of Gemma to config.json and to GGUF: the inverse of their families' readers."""

from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.export_parts import rotary_of
from yearling.models.llama_like import change_attention
from yearling.models.llama_like_export import llama_like_config, llama_like_gguf
from yearling.models.spec import Attention, Head, ModelSpec

__all__ = [
    "gemma2_config",
    "gemma2_gguf",
    "gemma3_config",
    "gemma3_gguf",
    "gemma_config",
    "gemma_gguf",
]


def gemma_config(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of the first generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention = _attentions(spec)[0]
    config = llama_like_config(spec, "gemma", "GemmaForCausalLM")
    return config | {
        "attention_bias": attention.has_qkv_bias,
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
    }


def gemma_gguf(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of the first generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return llama_like_gguf(spec, "gemma")


def gemma2_config(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of the second generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    everywhere = _parts(spec)[1]
    config = _later_config(spec, "gemma2", "Gemma2ForCausalLM")
    return config | {"attn_logit_softcapping": everywhere.soft_cap}


def gemma2_gguf(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of the second generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    caps = {"attn_logit_softcapping": _parts(spec)[1].soft_cap}
    return _later_gguf(spec, "gemma2", **caps)


def gemma3_config(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of the third generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    local = _parts(spec)[0]
    config = _later_config(spec, "gemma3_text", "Gemma3ForCausalLM")
    return config | {"rope_local_base_freq": rotary_of(local).base}


def gemma3_gguf(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of the third generation; it does not state the base of local layers.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return _later_gguf(spec, "gemma3")


def _later_config(spec: ModelSpec, model_type: str, architecture: str) -> dict[str, Any]:
    local, everywhere = _parts(spec)
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    config = llama_like_config(_all_alike(spec, everywhere), model_type, architecture)
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
        "sliding_window": local.window,
    }


def _later_gguf(spec: ModelSpec, architecture: str, **caps: float | None) -> dict[str, Any]:
    local, everywhere = _parts(spec)
    assert isinstance(spec.head, Head), "a LLaMA-like model has a head"
    caps |= {"final_logit_softcapping": spec.head.soft_cap}
    return llama_like_gguf(
        _all_alike(spec, everywhere),
        architecture,
        attention__sliding_window=local.window,
        **{key: cap for key, cap in caps.items() if cap is not None},
    )


def _all_alike(spec: ModelSpec, attention: Attention) -> ModelSpec:
    return change_attention(spec, lambda *_: attention, spec.family)


def _parts(spec: ModelSpec) -> tuple[Attention, Attention]:
    """Give the attention of local layers, and that of the others without any window.

    Raises:
        ModelFormatError: all layers are of one kind.
    """
    attentions = _attentions(spec)
    local = [attention for attention in attentions if attention.window is not None]
    everywhere = [attention for attention in attentions if attention.window is None]
    if not local or not everywhere:
        raise ModelFormatError(
            f"a model of family {spec.family} whose layers all see the same is not converted."
        )
    return local[0], everywhere[0]


def _attentions(spec: ModelSpec) -> list[Attention]:
    return [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Attention)]
