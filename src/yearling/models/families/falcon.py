"""Falcon 7B, 40B and 180B, and the smaller ones of RefinedWeb.

Multi-query attention, or (40B on) groups of queries around shared keys; attention and MLP side by
side; rotary positions, or ALiBi in the smaller ones.

Source: Almazrouei et al. 2023, arXiv:2311.16867; Penedo et al. 2023, arXiv:2306.01116.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.export_parts import is_tied, shared_parts
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gguf_export import gguf_settings
from yearling.models.hugging_face_config import (
    COMMON_KEYS,
    activation_from_config,
    activation_to_config,
)
from yearling.models.llama_like_gguf import (
    ROTARY_GGUF_KEYS,
    norm_from_gguf,
    own_settings,
    vocabulary_from_gguf,
)
from yearling.models.rotary_export import rotary_to_config
from yearling.models.rotary_settings import rotary_from_config, rotary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Alibi,
    Attention,
    Embedding,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
    Plain,
    Residual,
    Rotary,
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

_LAYER = "transformer.h.{layer}."
_FUSED = WeightName(f"{_LAYER}self_attention.query_key_value", "blk.{layer}.attn_qkv", "groups")
_ONE_NORM = WeightName(f"{_LAYER}input_layernorm", "blk.{layer}.attn_norm")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.word_embeddings", "token_embd"),
    "mixer_norm": _ONE_NORM,
    "query": _FUSED,
    "key": _FUSED,
    "value": _FUSED,
    "output": WeightName(f"{_LAYER}self_attention.dense", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName(f"{_LAYER}post_attention_layernorm", "blk.{layer}.ffn_norm"),
    "up": WeightName(f"{_LAYER}mlp.dense_h_to_4h", "blk.{layer}.ffn_up"),
    "down": WeightName(f"{_LAYER}mlp.dense_4h_to_h", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("transformer.ln_f", "output_norm"),
    "head": WeightName("lm_head", "output"),
}
# In GGUF the second norm of a pair has the name of the first where there is one.
_TWO_NORMS: Mapping[Role, WeightName] = {
    "mixer_norm": WeightName(f"{_LAYER}ln_attn", "blk.{layer}.attn_norm_2"),
    "mlp_norm": WeightName(f"{_LAYER}ln_mlp", "blk.{layer}.attn_norm"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("activation", "alibi", "apply_residual_connection_post_layernorm", "attention_dropout"),
    *("bias", "ffn_hidden_size", "hidden_dropout", "hidden_size", "initializer_range"),
    *("layer_norm_epsilon", "max_position_embeddings", "multi_query", "n_head", "n_head_kv"),
    *("n_layer", "new_decoder_architecture", "num_attention_heads", "num_hidden_layers"),
    *("num_kv_heads", "num_ln_in_parallel_attn", "parallel_attn", "rope_parameters"),
    *("rope_scaling", "rope_theta", "tie_word_embeddings", "vocab_size"),
}
_GGUF_KEYS = ROTARY_GGUF_KEYS | {
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon"),
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
    "tensor_data_layout",
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats; norms side by side have names of their own."""
    residual = spec.layers[0].residual
    has_two = isinstance(residual, Parallel) and residual.mlp_norm is not None
    return {**_NAMES, **_TWO_NORMS} if has_two else _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `falcon`, or of its first names."""
    config.refuse_unknown(_CONFIG_KEYS)
    if config.flag("apply_residual_connection_post_layernorm", False):
        raise config.error("apply_residual_connection_post_layernorm", "is not computed")
    width = read_width(config, "hidden_size")
    heads_key = "num_attention_heads" if "num_attention_heads" in config else "n_head"
    layers_key = "num_hidden_layers" if "num_hidden_layers" in config else "n_layer"
    heads = read_heads(config, heads_key)
    context = read_context(config, "max_position_embeddings", 2_048)
    has_bias = config.flag("bias", False)
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    is_alibi = config.flag("alibi", False)
    rotary = rotary_from_config(config, width // heads, context)
    with config.checked():
        attention = Attention(
            heads,
            _kv_heads(config, heads),
            width // heads,
            Alibi(is_scaled=True) if is_alibi else rotary,
            has_qkv_bias=has_bias,
            has_output_bias=has_bias,
        )
    mlp = Plain(
        read_hidden(config, "ffn_hidden_size", 4 * width),
        activation_from_config(config, "activation", "gelu"),
        has_bias,
    )
    return ModelSpec(
        family="falcon",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, _residual(config, norm)),)
        * read_layers(config, layers_key),
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


def _kv_heads(config: Fields, heads: int) -> int:
    if config.flag("new_decoder_architecture", False):
        return read_heads(
            config, "num_kv_heads" if "num_kv_heads" in config else "n_head_kv", heads
        )
    # RefinedWeb's 40B has groups under its first name, before the newer keys.
    if "n_head_kv" in config and not config.flag("multi_query", False):
        return read_heads(config, "n_head_kv")
    return 1 if config.flag("multi_query", True) else heads


def _residual(config: Fields, norm: Norm) -> Residual:
    is_new = config.flag("new_decoder_architecture", False)
    if not is_new and not config.flag("parallel_attn", True):
        return Serial(norm, norm)
    num_norms = config.integer("num_ln_in_parallel_attn", 2 if is_new else 1, minimum=1, maximum=2)
    return Parallel(norm, norm if is_new and num_norms == 2 else None)


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `falcon`."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    width = read_width(own, "embedding_length")
    heads = read_heads(own, "attention.head_count")
    norm = norm_from_gguf(file, "layer")
    if own.integer("rope.dimension_count", width // heads) != width // heads:
        raise own.error("rope.dimension_count", f"must equal the head size of {width // heads}")
    rotary = rotary_from_gguf(file, Fields(file.metadata, str(file.path)), width // heads)
    with own.checked():
        attention = Attention(
            heads, read_heads(own, "attention.head_count_kv", 1), width // heads, rotary
        )
    has_two = "blk.0.attn_norm_2.weight" in file.tensors
    mlp = Plain(read_hidden(own, "feed_forward_length", 4 * width), has_bias=False)
    layer = LayerSpec(attention, mlp, Parallel(norm, norm if has_two else None))
    return ModelSpec(
        family="falcon",
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=read_context(own, "context_length"),
        embedding=Embedding(),
        layers=(layer,) * read_layers(own, "block_count"),
        final_norm=norm,
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of model type `falcon`.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, norm = shared_parts(spec)
    residual, positions = spec.layers[0].residual, attention.positions
    num_norms = 2 if isinstance(residual, Parallel) and residual.mlp_norm is not None else 1
    is_new = num_norms == 2 or attention.kv_heads not in (1, attention.heads)
    return {
        "architectures": ["FalconForCausalLM"],
        "model_type": "falcon",
        "activation": activation_to_config(mlp.activation),
        "alibi": isinstance(positions, Alibi),
        "bias": attention.has_qkv_bias,
        "ffn_hidden_size": mlp.hidden,
        "hidden_size": spec.width,
        "layer_norm_epsilon": norm.epsilon,
        "max_position_embeddings": spec.context,
        "multi_query": attention.kv_heads == 1,
        "new_decoder_architecture": is_new,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(spec.layers),
        "num_kv_heads": attention.kv_heads,
        "num_ln_in_parallel_attn": num_norms,
        "parallel_attn": isinstance(residual, Parallel),
        **(rotary_to_config(positions) if isinstance(positions, Rotary) else {}),
        "tie_word_embeddings": is_tied(spec),
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata, which has neither ALiBi nor one branch after the other.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return gguf_settings(spec, "falcon", tensor_data_layout="jploski")


family = families.register(
    Family(
        model_types=("falcon", "RefinedWeb", "RefinedWebModel"),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("falcon",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
