"""MPT: ALiBi positions, no biases at all, and clamped projections in some.

Source: MosaicML 2023, "Introducing MPT-7B: a new standard for open-source, commercially usable
LLMs".
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.export_parts import is_tied, shared_parts
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gguf_export import gguf_settings
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.llama_like_gguf import own_settings, vocabulary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Alibi,
    Attention,
    Embedding,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    Serial,
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

_FUSED = WeightName("transformer.blocks.{layer}.attn.Wqkv", "blk.{layer}.attn_qkv")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte", "token_embd"),
    "mixer_norm": WeightName("transformer.blocks.{layer}.norm_1", "blk.{layer}.attn_norm"),
    "query": _FUSED,
    "key": _FUSED,
    "value": _FUSED,
    "output": WeightName("transformer.blocks.{layer}.attn.out_proj", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName("transformer.blocks.{layer}.norm_2", "blk.{layer}.ffn_norm"),
    "up": WeightName("transformer.blocks.{layer}.ffn.up_proj", "blk.{layer}.ffn_up"),
    "down": WeightName("transformer.blocks.{layer}.ffn.down_proj", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("transformer.norm_f", "output_norm"),
    "head": WeightName("lm_head", "output"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("attn_config", "d_model", "emb_pdrop", "embedding_fraction", "expansion_ratio"),
    *("init_config", "init_device", "initializer_range", "layer_norm_epsilon", "learned_pos_emb"),
    *("max_seq_len", "n_heads", "n_layers", "no_bias", "norm_type", "resid_pdrop"),
    *("tie_word_embeddings", "tokenizer_name", "verbose", "vocab_size"),
}
_ATTENTION_KEYS = COMMON_KEYS | {
    *("alibi", "alibi_bias_max", "attn_impl", "attn_pdrop", "attn_type", "clip_qkv"),
    *("attn_uses_sequence_id", "softmax_scale"),
}
_GGUF_KEYS = {
    *("attention.alibi_bias_max", "attention.max_alibi_bias", "attention.clamp_kqv"),
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon"),
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `mpt`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "d_model")
    heads = read_heads(config, "n_heads")
    if not config.flag("no_bias", True):
        raise config.error("no_bias", "must be true; MPT with biases is not read")
    ratio = config.number("expansion_ratio", 4, above=0)
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0))
    attention = _attention(config.inner("attn_config") or Fields({}, config.label), heads, width)
    mlp = Plain(int(ratio * width), "gelu", has_bias=False)
    return ModelSpec(
        family="mpt",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=read_context(config, "max_seq_len", 2_048),
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Serial(norm, norm)),) * read_layers(config, "n_layers"),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


def _attention(settings: Fields, heads: int, width: int) -> Attention:
    settings.refuse_unknown(_ATTENTION_KEYS)
    if not settings.flag("alibi", True):
        raise settings.error("alibi", "must be true; learned positions are not read")
    if settings.text("attn_type", "multihead_attention") != "multihead_attention":
        raise settings.error("attn_type", "is not read; only multihead_attention is")
    has_clip, has_scale = "clip_qkv" in settings, "softmax_scale" in settings
    with settings.checked():
        return Attention(
            heads,
            heads,
            width // heads,
            Alibi(settings.number("alibi_bias_max", 8, above=0)),
            clip_qkv=settings.number("clip_qkv", above=0) if has_clip else None,
            scale=settings.number("softmax_scale", above=0) if has_scale else None,
        )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `mpt`."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    width = read_width(own, "embedding_length")
    heads = read_heads(own, "attention.head_count")
    norm = Norm("layer", own.number("attention.layer_norm_epsilon", above=0))
    clip = own.number("attention.clamp_kqv", 0.0)
    with own.checked():
        attention = Attention(
            heads,
            read_heads(own, "attention.head_count_kv", heads),
            width // heads,
            Alibi(own.number("attention.max_alibi_bias", 8.0, above=0)),
            clip_qkv=clip or None,
        )
    mlp = Plain(read_hidden(own, "feed_forward_length", 4 * width), has_bias=False)
    return ModelSpec(
        family="mpt",
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=read_context(own, "context_length"),
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Serial(norm, norm)),) * read_layers(own, "block_count"),
        final_norm=norm,
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, norm = shared_parts(spec)
    ratio = mlp.hidden / spec.width
    assert isinstance(attention.positions, Alibi), "every MPT that is read has ALiBi"
    return {
        "architectures": ["MptForCausalLM"],
        "model_type": "mpt",
        "attn_config": {
            "alibi": True,
            "alibi_bias_max": int(attention.positions.max_bias),
            "attn_type": "multihead_attention",
            "clip_qkv": attention.clip_qkv,
            "softmax_scale": attention.scale,
        },
        "d_model": spec.width,
        "expansion_ratio": int(ratio) if ratio.is_integer() else ratio,
        "layer_norm_epsilon": norm.epsilon,
        "learned_pos_emb": False,
        "max_seq_len": spec.context,
        "n_heads": attention.heads,
        "n_layers": len(spec.layers),
        "no_bias": True,
        "tie_word_embeddings": is_tied(spec),
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, _, _ = shared_parts(spec)
    assert isinstance(attention.positions, Alibi), "every MPT that is read has ALiBi"
    metadata = gguf_settings(spec, "mpt", attention__max_alibi_bias=attention.positions.max_bias)
    if attention.clip_qkv is not None:
        metadata["mpt.attention.clamp_kqv"] = attention.clip_qkv
    return metadata


family = families.register(
    Family(
        model_types=("mpt",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("mpt",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
    ),
    __name__,
)
