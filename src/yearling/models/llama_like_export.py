"""LLaMA-like specs to config.json and to GGUF: the inverse of `llama_like` and its GGUF form.

What has no place there is found by `export_check`, which reads the result back.
"""

from typing import Any

from yearling.models.export_parts import is_tied, rotary_of, shared_parts
from yearling.models.gguf_export import gguf_settings
from yearling.models.hugging_face_config import activation_to_config
from yearling.models.rotary_export import rotary_to_config
from yearling.models.spec import ModelSpec

__all__ = ["llama_like_config", "llama_like_gguf"]


def llama_like_config(spec: ModelSpec, model_type: str, architecture: str) -> dict[str, Any]:
    """Write config.json, without biases, token ids and number type.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, norm = shared_parts(spec)
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
        **rotary_to_config(rotary_of(attention)),
        "tie_word_embeddings": is_tied(spec),
        "vocab_size": spec.vocabulary,
    }


def llama_like_gguf(spec: ModelSpec, architecture: str, **own: Any) -> dict[str, Any]:
    """Write the metadata of a GGUF file, without the tokenizer's.

    Args:
        own: As for `gguf_settings`.
    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, _, _ = shared_parts(spec)
    return gguf_settings(
        spec,
        architecture,
        attention__key_length=attention.head_dim,
        attention__value_length=attention.head_dim,
        vocab_size=spec.vocabulary,
        **own,
    )
