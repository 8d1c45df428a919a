"""What every architecture of attention has in the metadata of a GGUF file."""

from typing import Any

from yearling.models.export_parts import shared_parts
from yearling.models.rotary_export import rotary_to_gguf
from yearling.models.spec import ModelSpec, Rotary

__all__ = ["gguf_settings"]


def gguf_settings(spec: ModelSpec, architecture: str, **own: Any) -> dict[str, Any]:
    """Write sizes, heads, the norm's epsilon and the rotation.

    Args:
        architecture: As llama.cpp calls it.
        own: Keys that only this architecture has, below its name; dots are double underscores.
    Raises:
        ModelFormatError: layers differ, or GGUF has no such rotary scaling.

    >>> from yearling.models.spec import *
    >>> layer = LayerSpec(Attention(2, 2, 4), Plain(16), Serial(Norm()))
    >>> spec = ModelSpec("gpt2", 9, 8, 32, Embedding(), (layer,), Norm("layer"), Head())
    >>> gguf_settings(spec, "gpt2", rope__finetuned=True)["gpt2.rope.finetuned"]
    True
    """
    attention, mlp, norm = shared_parts(spec)
    kind = "layer_norm_rms_epsilon" if norm.kind == "rms" else "layer_norm_epsilon"
    settings = {
        "attention.head_count": attention.heads,
        "attention.head_count_kv": attention.kv_heads,
        f"attention.{kind}": norm.epsilon,
        "block_count": len(spec.layers),
        "context_length": spec.context,
        "embedding_length": spec.width,
        "feed_forward_length": mlp.hidden,
    }
    if attention.heads * attention.head_dim != spec.width:
        settings["attention.key_length"] = attention.head_dim
        settings["attention.value_length"] = attention.head_dim
    settings |= {key.replace("__", "."): value for key, value in own.items()}
    rotary = attention.positions
    return {
        "general.architecture": architecture,
        **{f"{architecture}.{key}": value for key, value in settings.items()},
        **(rotary_to_gguf(rotary, architecture) if isinstance(rotary, Rotary) else {}),
    }
