"""Qwen 1: LLaMA's layout with biased fused projections, made longer without training.

Beyond the trained length the rotary base grows in steps and queries are scaled by log-n; GGUF
keeps neither.

Source: Bai et al. 2023, arXiv:2309.16609, section 2.3.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.export_parts import is_tied, rotary_of, shared_parts
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.llama_like import change_attention
from yearling.models.llama_like_export import llama_like_gguf
from yearling.models.llama_like_gguf import (
    LLAMA_GGUF_KEYS,
    llama_like_spec_from_gguf,
    own_settings,
)
from yearling.models.rotary_settings import partial_rotary_from_config
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    LogScale,
    ModelSpec,
    Norm,
    RotaryScaling,
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

_CONFIG_KEYS = COMMON_KEYS | {
    *("attn_dropout_prob", "emb_dropout_prob", "initializer_range"),  # training only
    *("bf16", "fp16", "fp32", "onnx_safe", "softmax_in_fp32", "tokenizer_type"),
    *("use_cache_kernel", "use_cache_quantization", "use_flash_attn"),
    *("hidden_size", "intermediate_size", "kv_channels", "layer_norm_epsilon"),
    *("max_position_embeddings", "no_bias", "num_attention_heads", "num_hidden_layers"),
    *("rotary_emb_base", "rotary_pct", "scale_attn_weights", "seq_length"),
    *("tie_word_embeddings", "use_dynamic_ntk", "use_logn_attn", "vocab_size"),
}
_BLOCK = "transformer.h.{layer}"
_QKV = WeightName(f"{_BLOCK}.attn.c_attn", "blk.{layer}.attn_qkv")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte", "token_embd"),
    "mixer_norm": WeightName(f"{_BLOCK}.ln_1", "blk.{layer}.attn_norm"),
    "query": _QKV,
    "key": _QKV,
    "value": _QKV,
    "output": WeightName(f"{_BLOCK}.attn.c_proj", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName(f"{_BLOCK}.ln_2", "blk.{layer}.ffn_norm"),
    "gate": WeightName(f"{_BLOCK}.mlp.w2", "blk.{layer}.ffn_gate"),
    "up": WeightName(f"{_BLOCK}.mlp.w1", "blk.{layer}.ffn_up"),
    "down": WeightName(f"{_BLOCK}.mlp.c_proj", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("transformer.ln_f", "output_norm"),
    "head": WeightName("lm_head", "output"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json, whose `intermediate_size` counts gate and up together.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    if not config.flag("no_bias", True) or not config.flag("scale_attn_weights", True):
        raise config.error("no_bias", "and scale_attn_weights must be true; no Qwen had others")
    norm = Norm(epsilon=config.number("layer_norm_epsilon", 1e-6, above=0))
    mlp = Gated(read_hidden(config, "intermediate_size") // 2)
    layer = LayerSpec(_attention(config), mlp, Serial(norm, norm))
    return ModelSpec(
        family="qwen",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=read_width(config, "hidden_size"),
        context=read_context(config, "max_position_embeddings", 8_192),
        embedding=Embedding(),
        layers=(layer,) * read_layers(config, "num_hidden_layers"),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", False)),
    )


def _attention(config: Fields) -> Attention:
    heads = read_heads(config, "num_attention_heads")
    head_dim = read_width(config, "kv_channels", 128)
    trained = read_context(config, "seq_length", 8_192)
    with config.checked():
        rotary = partial_rotary_from_config(
            config,
            head_dim,
            trained,
            default_fraction=1.0,
            fraction_key="rotary_pct",
            base_key="rotary_emb_base",
        )
        if config.flag("use_dynamic_ntk", True):
            scaling = RotaryScaling("stepped_ntk", original_context=trained)
            rotary = replace(rotary, scaling=scaling)
        log_scale = LogScale(trained) if config.flag("use_logn_attn", True) else None
        return Attention(heads, heads, head_dim, rotary, has_qkv_bias=True, log_scale=log_scale)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file; its feed-forward length counts gate and up together.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    own = own_settings(file)
    own.refuse_unknown(LLAMA_GGUF_KEYS)
    spec = llama_like_spec_from_gguf(file, "qwen")
    mlp = Gated(read_hidden(own, "feed_forward_length") // 2)
    spec = replace(spec, layers=tuple(replace(layer, mlp=mlp) for layer in spec.layers))
    return change_attention(spec, lambda _, mixer: replace(mixer, has_qkv_bias=True), own.label)


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, norm = shared_parts(spec)
    rotary = rotary_of(attention)
    trained = spec.context
    is_stepped = rotary.scaling is not None and rotary.scaling.kind == "stepped_ntk"
    if rotary.scaling is not None and is_stepped:
        trained = rotary.scaling.original_context
    elif attention.log_scale is not None:
        trained = attention.log_scale.trained_length
    return {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "hidden_size": spec.width,
        "intermediate_size": 2 * mlp.hidden,
        "kv_channels": attention.head_dim,
        "layer_norm_epsilon": norm.epsilon,
        "max_position_embeddings": spec.context,
        "no_bias": True,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(spec.layers),
        "rotary_emb_base": rotary.base,
        "rotary_pct": rotary.dims / attention.head_dim,
        "scale_attn_weights": True,
        "seq_length": trained,
        "tie_word_embeddings": is_tied(spec),
        "use_dynamic_ntk": is_stepped,
        "use_logn_attn": attention.log_scale is not None,
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata, which has no way past the trained length.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, _ = shared_parts(spec)
    scaling = rotary_of(attention).scaling
    if attention.log_scale is not None or (scaling and scaling.kind == "stepped_ntk"):
        raise ModelFormatError(
            "GGUF keeps neither Qwen's dynamic NTK nor its log-n scaling. Set use_dynamic_ntk and "
            "use_logn_attn to false in config.json: up to seq_length tokens it is the same model."
        )
    metadata = llama_like_gguf(spec, "qwen")
    return metadata | {"qwen.feed_forward_length": 2 * mlp.hidden}


family = families.register(
    Family(
        model_types=("qwen",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("qwen",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        ignored=("rotary_emb.inv_freq", "attn.masked_bias"),
    ),
    __name__,
)
