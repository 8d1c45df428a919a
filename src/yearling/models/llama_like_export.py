"""LLaMA-like specs to config.json and to GGUF: the inverse of `llama_like` and its GGUF form."""

from typing import Any

from yearling.core.errors import ModelFormatError
from yearling.models.hugging_face_config import activation_to_config
from yearling.models.rotary_export import rotary_to_config, rotary_to_gguf
from yearling.models.spec import (
    Attention,
    Gated,
    Head,
    ModelSpec,
    Norm,
    Rotary,
)

__all__ = ["llama_like_config", "llama_like_gguf"]


def llama_like_config(spec: ModelSpec, model_type: str, architecture: str) -> dict[str, Any]:
    """Write config.json, without biases, token ids and number type.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, rotary, norm = _plain_parts(spec)
    return {
        "architectures": [architecture],
        "model_type": model_type,
        "head_dim": attention.head_dim,
        "hidden_act": activation_to_config(mlp.activation),
        "hidden_size": spec.width,
        "intermediate_size": mlp.hidden,
        "max_position_embeddings": spec.context,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(spec.layers),
        "num_key_value_heads": attention.kv_heads,
        "rms_norm_eps": norm.epsilon,
        **rotary_to_config(rotary),
        "tie_word_embeddings": spec.head == Head(is_tied=True),
        "vocab_size": spec.vocabulary,
    }


def llama_like_gguf(spec: ModelSpec, architecture: str) -> dict[str, Any]:
    """Write the metadata of a GGUF file, without the tokenizer's.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, rotary, norm = _plain_parts(spec)
    if mlp.activation != "silu":
        raise ModelFormatError(f"GGUF's {architecture} has no activation {mlp.activation}.")
    own = {
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        "attention.key_length": attention.head_dim,
        "attention.layer_norm_rms_epsilon": norm.epsilon,
        "attention.value_length": attention.head_dim,
        "block_count": len(spec.layers),
        "context_length": spec.context,
        "embedding_length": spec.width,
        "feed_forward_length": mlp.hidden,
        "vocab_size": spec.vocabulary,
    }
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in own.items()},
        **rotary_to_gguf(rotary, architecture),
    }


def _plain_parts(spec: ModelSpec) -> tuple[Attention, Gated, Rotary, Norm]:
    """Give the parts that all layers share.

    Raises:
        ModelFormatError: they have others, or differ, as with windows in some layers.
    """
    attention, mlp, norm = spec.layers[0].mixer, spec.layers[0].mlp, spec.final_norm
    if (
        set(spec.layers) != {spec.layers[0]}
        or not isinstance(attention, Attention)
        or not isinstance(mlp, Gated)
        or not isinstance(attention.positions, Rotary)
        or attention.window is not None
        or norm is None
    ):
        raise ModelFormatError(
            f"a model of family {spec.family} with experts, or with windows on attention, is not "
            "converted yet."
        )
    return attention, mlp, attention.positions, norm
