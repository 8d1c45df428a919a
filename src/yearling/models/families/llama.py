"""LLaMA and everything shaped like it: Llama 2 and 3, Code Llama, SmolLM2, Yi, Vicuna.

Pre-norm decoder with RMS norms, rotary positions over whole heads, grouped-query attention
and a SiLU-gated MLP.

Source: Touvron et al. 2023, arXiv:2302.13971 and arXiv:2307.09288 (grouped queries).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import (
    COMMON_KEYS,
    activation_from_config,
    activation_to_config,
)
from yearling.models.rotary_export import rotary_to_config, rotary_to_gguf
from yearling.models.rotary_settings import rotary_from_config, rotary_from_gguf
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Rotary,
    Serial,
)
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["family"]

_MAX_HEADS = 4_096
_MAX_LAYERS = 4_096
_MAX_WIDTH = 1 << 20
_MAX_HIDDEN = 1 << 24

_CONFIG_KEYS = COMMON_KEYS | {
    "attention_bias",
    "attention_dropout",  # training only
    "head_dim",
    "hidden_act",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "is_llama_config",
    "max_position_embeddings",
    "max_sequence_length",  # the same number in the first conversions
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "pretraining_tp",  # splits matrix products; their sum is the same
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
    "vocab_size",
}
_GGUF_KEYS = {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "expert_count",
    "expert_used_count",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.attn_factor",
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "vocab_size",
}


_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("model.embed_tokens", "token_embd"),
    "mixer_norm": WeightName("model.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
    "query": WeightName("model.layers.{layer}.self_attn.q_proj", "blk.{layer}.attn_q"),
    "key": WeightName("model.layers.{layer}.self_attn.k_proj", "blk.{layer}.attn_k"),
    "value": WeightName("model.layers.{layer}.self_attn.v_proj", "blk.{layer}.attn_v"),
    "output": WeightName("model.layers.{layer}.self_attn.o_proj", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName("model.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"),
    "gate": WeightName("model.layers.{layer}.mlp.gate_proj", "blk.{layer}.ffn_gate"),
    "up": WeightName("model.layers.{layer}.mlp.up_proj", "blk.{layer}.ffn_up"),
    "down": WeightName("model.layers.{layer}.mlp.down_proj", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("model.norm", "output_norm"),
    "head": WeightName("lm_head", "output"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json as transformers 4 or 5 writes it.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    heads = config.integer("num_attention_heads", minimum=1, maximum=_MAX_HEADS)
    width = config.integer("hidden_size", minimum=1, maximum=_MAX_WIDTH)
    head_dim = config.integer("head_dim", width // heads, minimum=1, maximum=_MAX_WIDTH)
    context = config.integer("max_position_embeddings", 2_048, minimum=1)
    has_bias = config.flag("attention_bias", False)
    with config.checked():
        attention = Attention(
            heads,
            config.integer("num_key_value_heads", heads, minimum=1, maximum=_MAX_HEADS),
            head_dim,
            rotary_from_config(config, head_dim, context),
            has_qkv_bias=has_bias,
            has_output_bias=has_bias,
        )
    mlp = Gated(
        config.integer("intermediate_size", minimum=1, maximum=_MAX_HIDDEN),
        activation_from_config(config, "hidden_act", "silu"),
        config.flag("mlp_bias", False),
    )
    norm = Norm(epsilon=config.number("rms_norm_eps", 1e-6, above=0))
    num_layers = config.integer("num_hidden_layers", minimum=1, maximum=_MAX_LAYERS)
    return ModelSpec(
        family="llama",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Serial(norm, norm)),) * num_layers,
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", False)),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `llama`.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    metadata = Fields(file.metadata, str(file.path))
    own = metadata.under("llama.")
    own.refuse_unknown(_GGUF_KEYS)
    if own.integer("expert_count", 0):
        raise own.error("expert_count", "is of a mixture of experts, which is not read yet")
    width = own.integer("embedding_length", minimum=1, maximum=_MAX_WIDTH)
    norm = Norm(epsilon=own.number("attention.layer_norm_rms_epsilon", above=0))
    hidden = own.integer("feed_forward_length", minimum=1, maximum=_MAX_HIDDEN)
    mlp = Gated(hidden, has_bias="blk.0.ffn_up.bias" in file.tensors)
    layer = LayerSpec(_attention_from_gguf(file, metadata, own, width), mlp, Serial(norm, norm))
    return ModelSpec(
        family="llama",
        vocabulary=_vocabulary_from_gguf(file, own),
        width=width,
        context=own.integer("context_length", minimum=1),
        embedding=Embedding(),
        layers=(layer,) * own.integer("block_count", minimum=1, maximum=_MAX_LAYERS),
        final_norm=norm,
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json, without token ids and number type.

    Raises:
        ModelFormatError: it has no place for the rotary scaling.
    """
    attention, mlp, rotary, norm = _plain_parts(spec)
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": attention.has_qkv_bias,
        "head_dim": attention.head_dim,
        "hidden_act": activation_to_config(mlp.activation),
        "hidden_size": spec.width,
        "intermediate_size": mlp.hidden,
        "max_position_embeddings": spec.context,
        "mlp_bias": mlp.has_bias,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(spec.layers),
        "num_key_value_heads": attention.kv_heads,
        "rms_norm_eps": norm.epsilon,
        **rotary_to_config(rotary),
        "tie_word_embeddings": spec.head == Head(is_tied=True),
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write the metadata of a GGUF file of architecture `llama`.

    Raises:
        ModelFormatError: it has no place for the activation or the rotary scaling.
    """
    attention, mlp, rotary, norm = _plain_parts(spec)
    if mlp.activation != "silu":
        raise ModelFormatError(f"GGUF's llama has no activation {mlp.activation}.")
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
    metadata = {f"llama.{key}": value for key, value in own.items()}
    return {"general.architecture": "llama", **metadata, **rotary_to_gguf(rotary, "llama")}


def _plain_parts(spec: ModelSpec) -> tuple[Attention, Gated, Rotary, Norm]:
    """Give the parts that all layers share; specs of this family are made of them."""
    attention, mlp, norm = spec.layers[0].mixer, spec.layers[0].mlp, spec.final_norm
    assert isinstance(attention, Attention), "made by this file"
    assert isinstance(mlp, Gated), "made by this file"
    assert isinstance(attention.positions, Rotary), "made by this file"
    assert norm is not None, "made by this file"
    return attention, mlp, attention.positions, norm


def gguf_row_order(role: Role, spec: ModelSpec, layer: int) -> NDArray[np.intp] | None:
    """Undo GGUF's order of query and key rows.

    Hugging Face rotates dimensions i and i + D/2 of a head together, GGUF's `llama`
    rotates 2i and 2i + 1, so its writer interleaves the two halves of each head.

    >>> from yearling.models.spec import *
    >>> attention = Attention(1, 1, 6, Rotary(6))
    >>> layer = LayerSpec(attention, Gated(8), Serial(Norm(), Norm()))
    >>> spec = ModelSpec("llama", 9, 6, 8, Embedding(), (layer,), Norm(), Head())
    >>> gguf_row_order("query", spec, 0).tolist()
    [0, 2, 4, 1, 3, 5]
    """
    mixer = spec.layers[layer].mixer
    if role not in ("query", "key") or not isinstance(mixer, Attention):
        return None
    heads = mixer.heads if role == "query" else mixer.kv_heads
    rows = np.arange(heads * mixer.head_dim).reshape(heads, mixer.head_dim // 2, 2)
    return rows.swapaxes(1, 2).reshape(-1)


def _attention_from_gguf(file: "GgufFile", metadata: Fields, own: Fields, width: int) -> Attention:
    heads = own.integer("attention.head_count", minimum=1, maximum=_MAX_HEADS)
    head_dim = own.integer("attention.key_length", width // heads, minimum=1, maximum=_MAX_WIDTH)
    for key in ("attention.value_length", "rope.dimension_count"):
        if own.integer(key, head_dim) != head_dim:
            raise own.error(key, f"must equal the head size of {head_dim}")
    with metadata.checked():
        return Attention(
            heads,
            own.integer("attention.head_count_kv", heads, minimum=1, maximum=_MAX_HEADS),
            head_dim,
            rotary_from_gguf(file, metadata, head_dim),
            has_qkv_bias="blk.0.attn_q.bias" in file.tensors,
            has_output_bias="blk.0.attn_output.bias" in file.tensors,
        )


def _vocabulary_from_gguf(file: "GgufFile", own: Fields) -> int:
    """Take the rows of the embedding, which some files state a second time."""
    embedding = file.tensors.get("token_embd.weight")
    rows = embedding.shape[0] if embedding is not None else own.integer("vocab_size", minimum=1)
    if own.integer("vocab_size", rows) != rows:
        raise own.error("vocab_size", f"contradicts token_embd.weight, which has {rows} rows")
    return rows


family = families.register(
    Family(
        model_types=("llama",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("llama",),
        spec_from_gguf=spec_from_gguf,
        gguf_row_order=gguf_row_order,
        ignored=("rotary_emb.inv_freq", "rope_freqs.weight"),
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
