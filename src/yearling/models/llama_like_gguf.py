"""LLaMA-like models in GGUF: every such architecture writes the same keys under its own name."""

from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from yearling.models.fields import Fields
from yearling.models.rotary_settings import rotary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Experts,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Serial,
)
from yearling.models.weights import Role

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = [
    "LLAMA_GGUF_KEYS",
    "ROTARY_GGUF_KEYS",
    "head_dim_from_gguf",
    "interleaved_row_order",
    "llama_like_spec_from_gguf",
    "norm_from_gguf",
    "own_settings",
    "vocabulary_from_gguf",
]

ROTARY_GGUF_KEYS = frozenset(
    {
        "rope.dimension_count",
        "rope.freq_base",
        "rope.scale_linear",
        "rope.scaling.attn_factor",
        "rope.scaling.factor",
        "rope.scaling.finetuned",
        "rope.scaling.original_context_length",
        "rope.scaling.type",
    }
)
"""Keys under the architecture's name that state the rotation."""

LLAMA_GGUF_KEYS = ROTARY_GGUF_KEYS | {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "tensor_data_layout",
    "vocab_size",
}
"""Keys under the architecture's name that `llama_like_spec_from_gguf` reads."""


def own_settings(file: "GgufFile") -> Fields:
    """Give the keys under the architecture's name, without it."""
    metadata = Fields(file.metadata, str(file.path))
    return metadata.under(f"{metadata.text('general.architecture')}.")


def norm_from_gguf(file: "GgufFile", kind: Literal["rms", "layer"] = "rms") -> Norm:
    """Read the norm that all layers share; a layer norm has a bias.

    Raises:
        ModelFormatError: the epsilon is missing or out of range.
    """
    key = "attention.layer_norm_rms_epsilon" if kind == "rms" else "attention.layer_norm_epsilon"
    return Norm(kind, own_settings(file).number(key, above=0), has_bias=kind == "layer")


def llama_like_spec_from_gguf(
    file: "GgufFile", family: str, *, norm: Norm | None = None, is_partial: bool = False
) -> ModelSpec:
    """Read the metadata of a GGUF file whose architecture is shaped like LLaMA.

    Args:
        norm: Every norm; None is an RMS norm with the file's epsilon.
        is_partial: Whether fewer dimensions may be rotated than a head has.
    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    width = read_width(own, "embedding_length")
    norm = norm or norm_from_gguf(file)
    attention = _attention_from_gguf(file, own, width, is_partial)
    layer = LayerSpec(attention, _mlp_from_gguf(file, own), Serial(norm, norm))
    return ModelSpec(
        family=family,
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=read_context(own, "context_length"),
        embedding=Embedding(),
        layers=(layer,) * read_layers(own, "block_count"),
        final_norm=norm,
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def interleaved_row_order(role: Role, spec: ModelSpec, layer: int) -> NDArray[np.intp] | None:
    """Undo GGUF's order of query and key rows, where llama.cpp rotates neighbours.

    Hugging Face rotates dimensions i and i + D/2 of a head together, GGUF's `llama`
    rotates 2i and 2i + 1, so its writer interleaves the two halves of each head.

    >>> from yearling.models.spec import *
    >>> attention = Attention(1, 1, 6, Rotary(6))
    >>> layer = LayerSpec(attention, Gated(8), Serial(Norm(), Norm()))
    >>> spec = ModelSpec("llama", 9, 6, 8, Embedding(), (layer,), Norm(), Head())
    >>> interleaved_row_order("query", spec, 0).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    mixer = spec.layers[layer].mixer
    if role not in ("query", "key") or not isinstance(mixer, Attention):
        return None
    heads = mixer.heads if role == "query" else mixer.kv_heads
    rows = np.arange(heads * mixer.head_dim).reshape(heads, mixer.head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def vocabulary_from_gguf(file: "GgufFile", own: Fields) -> int:
    """Take the rows of the embedding, which some files state a second time.

    Raises:
        ModelFormatError: the two contradict each other, or neither is there.
    """
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else own.integer("vocab_size", minimum=1)
    if own.integer("vocab_size", rows) != rows:
        raise own.error("vocab_size", f"contradicts token_embd.weight, which has {rows} rows")
    return rows


def head_dim_from_gguf(own: Fields, default: int) -> int:
    """Read the size of a head, which is one for keys and values.

    Raises:
        ModelFormatError: it is out of range, or values have another.
    """
    head_dim = read_width(own, "attention.key_length", default)
    if own.integer("attention.value_length", head_dim) != head_dim:
        raise own.error("attention.value_length", f"must equal the head size of {head_dim}")
    return head_dim


def _attention_from_gguf(file: "GgufFile", own: Fields, width: int, is_partial: bool) -> Attention:
    heads = read_heads(own, "attention.head_count")
    head_dim = head_dim_from_gguf(own, width // heads)
    rotated = read_width(own, "rope.dimension_count", head_dim)
    if rotated != head_dim and not is_partial:
        raise own.error("rope.dimension_count", f"must equal the head size of {head_dim}")
    metadata = Fields(file.metadata, str(file.path))
    with metadata.checked():
        return Attention(
            heads,
            read_heads(own, "attention.head_count_kv", heads),
            head_dim,
            rotary_from_gguf(file, metadata, rotated),
            has_qkv_bias=bool({"blk.0.attn_q.bias", "blk.0.attn_qkv.bias"} & set(file.tensors)),
            has_output_bias="blk.0.attn_output.bias" in file.tensors,
        )


def _mlp_from_gguf(file: "GgufFile", own: Fields) -> Gated | Experts:
    hidden = read_hidden(own, "feed_forward_length")
    if not own.integer("expert_count", 0):
        return Gated(hidden, has_bias="blk.0.ffn_up.bias" in file.tensors)
    count = read_heads(own, "expert_count")
    active = own.integer("expert_used_count", minimum=1, maximum=count)
    return Experts(count, active, Gated(hidden))
