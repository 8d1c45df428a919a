"""ChatGLM: the first, and ChatGLM2 and 3, which share its `model_type` and little else.

ChatGLM-6B sees its prompt both ways, turns half of each head by the position in the prompt and
half by the position in the answer, and scales residuals as DeepNorm does. ChatGLM2 and 3 are
causal decoders with two key heads and interleaved rotary positions on half of each head.

Source: Du et al. 2021, arXiv:2103.10360; Zeng et al. 2022, arXiv:2210.02414 (GLM-130B).
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.core.errors import ModelFormatError
from yearling.models.export_parts import is_tied, rotary_of, shared_parts
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gguf_export import gguf_settings
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.llama_like_gguf import (
    ROTARY_GGUF_KEYS,
    head_dim_from_gguf,
    norm_from_gguf,
    own_settings,
    vocabulary_from_gguf,
)
from yearling.models.rotary_settings import rotary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Plain,
    PostNorm,
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

_FIRST = "transformer.layers.{layer}."
_FIRST_FUSED = WeightName(f"{_FIRST}attention.query_key_value", rows="groups")
_FIRST_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.word_embeddings"),
    "mixer_norm": WeightName(f"{_FIRST}input_layernorm"),
    "query": _FIRST_FUSED,
    "key": _FIRST_FUSED,
    "value": _FIRST_FUSED,
    "output": WeightName(f"{_FIRST}attention.dense"),
    "mlp_norm": WeightName(f"{_FIRST}post_attention_layernorm"),
    "up": WeightName(f"{_FIRST}mlp.dense_h_to_4h"),
    "down": WeightName(f"{_FIRST}mlp.dense_4h_to_h"),
    "final_norm": WeightName("transformer.final_layernorm"),
    "head": WeightName("lm_head"),
}
_SECOND = "transformer.encoder.layers.{layer}."
_SECOND_FUSED = WeightName(f"{_SECOND}self_attention.query_key_value", "blk.{layer}.attn_qkv")
_SECOND_GATED = WeightName(f"{_SECOND}mlp.dense_h_to_4h", "blk.{layer}.ffn_up")
_SECOND_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.embedding.word_embeddings", "token_embd"),
    "mixer_norm": WeightName(f"{_SECOND}input_layernorm", "blk.{layer}.attn_norm"),
    "query": _SECOND_FUSED,
    "key": _SECOND_FUSED,
    "value": _SECOND_FUSED,
    "output": WeightName(f"{_SECOND}self_attention.dense", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName(f"{_SECOND}post_attention_layernorm", "blk.{layer}.ffn_norm"),
    "gate": _SECOND_GATED,
    "up": _SECOND_GATED,
    "down": WeightName(f"{_SECOND}mlp.dense_4h_to_h", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("transformer.encoder.final_layernorm", "output_norm"),
    "head": WeightName("transformer.output_layer", "output"),
}
_FIRST_KEYS = COMMON_KEYS | {
    *("gmask_token_id", "hidden_size", "inner_hidden_size", "layernorm_epsilon", "mask_token_id"),
    *("max_sequence_length", "num_attention_heads", "num_layers", "position_encoding_2d"),
    *("pre_seq_len", "prefix_projection", "quantization_bit", "tie_word_embeddings", "vocab_size"),
}
_SECOND_KEYS = COMMON_KEYS | {
    *("add_qkv_bias", "apply_query_key_layer_scaling", "attention_dropout"),
    *("attention_softmax_in_fp32", "bias_dropout_fusion", "classifier_dropout"),
    *("ffn_hidden_size", "fp32_residual_connection", "hidden_dropout", "hidden_size"),
    *("kv_channels", "layernorm_epsilon", "multi_query_attention", "multi_query_group_num"),
    *("num_attention_heads", "num_layers", "original_rope", "padded_vocab_size"),
    *("post_layer_norm", "pre_seq_len", "prefix_projection", "quantization_bit", "rmsnorm"),
    *("rope_ratio", "seq_length", "tie_word_embeddings", "vocab_size"),
}
_GGUF_KEYS = ROTARY_GGUF_KEYS | {
    *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.layer_norm_rms_epsilon", "attention.value_length", "block_count"),
    *("context_length", "embedding_length", "feed_forward_length"),
}
_BASE = 10_000.0


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight; the two generations have different modules."""
    is_first = isinstance(spec.layers[0].residual, PostNorm)
    return _FIRST_NAMES if is_first else _SECOND_NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `chatglm`, of any generation."""
    if "quantization_bit" in config and config.integer("quantization_bit"):
        raise config.error("quantization_bit", "is of a quantised checkpoint, which is not read")
    if "pre_seq_len" in config:
        raise config.error("pre_seq_len", "is of a prefix-tuned checkpoint, which is not read")
    is_first = "padded_vocab_size" not in config
    return _first_spec(config) if is_first else _second_spec(config)


def _first_spec(config: Fields) -> ModelSpec:
    config.refuse_unknown(_FIRST_KEYS)
    if not config.flag("position_encoding_2d", True):
        raise config.error("position_encoding_2d", "must be true")
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_attention_heads")
    num_layers = read_layers(config, "num_layers")
    norm = Norm("layer", config.number("layernorm_epsilon", 1e-5, above=0), has_bias=True)
    with config.checked():
        attention = Attention(
            heads,
            heads,
            width // heads,
            Rotary(width // heads, layout="two_dimensional"),
            mask="prefix",
            has_qkv_bias=True,
            has_output_bias=True,
        )
    mlp = Plain(read_hidden(config, "inner_hidden_size", 4 * width), "gelu_tanh")
    residual = PostNorm(norm, norm, alpha=(2 * num_layers) ** 0.5, is_inner=True)
    return ModelSpec(
        family="chatglm",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=read_context(config, "max_sequence_length", 2_048),
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, residual),) * num_layers,
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
        prompt_tail=1,
    )


def _second_spec(config: Fields) -> ModelSpec:
    config.refuse_unknown(_SECOND_KEYS)
    for key, usual in (("rmsnorm", True), ("post_layer_norm", True), ("original_rope", True)):
        if config.flag(key, usual) is not usual:
            raise config.error(key, f"must be {str(usual).lower()}")
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_attention_heads")
    head_dim = read_width(config, "kv_channels", width // heads)
    is_grouped = config.flag("multi_query_attention", False)
    base = _BASE * config.number("rope_ratio", 1.0, above=0)
    with config.checked():
        attention = Attention(
            heads,
            read_heads(config, "multi_query_group_num", 1) if is_grouped else heads,
            head_dim,
            Rotary(head_dim // 2, base, "interleaved"),
            has_qkv_bias=config.flag("add_qkv_bias", False),
        )
    return _second(
        attention,
        Gated(read_hidden(config, "ffn_hidden_size")),
        Norm(epsilon=config.number("layernorm_epsilon", 1e-5, above=0)),
        num_layers=read_layers(config, "num_layers"),
        vocabulary=config.integer("padded_vocab_size", minimum=1),
        width=width,
        context=read_context(config, "seq_length", 2_048),
        head=Head(is_tied=config.flag("tie_word_embeddings", False)),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `chatglm`: ChatGLM2 and 3."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    width = read_width(own, "embedding_length")
    heads = read_heads(own, "attention.head_count")
    dims = own.integer("rope.dimension_count", minimum=2)
    rotary = rotary_from_gguf(file, Fields(file.metadata, str(file.path)), dims)
    with own.checked():
        attention = Attention(
            heads,
            read_heads(own, "attention.head_count_kv", heads),
            head_dim_from_gguf(own, 2 * dims),
            Rotary(dims, rotary.base, "interleaved", rotary.scaling),
            has_qkv_bias="blk.0.attn_qkv.bias" in file.tensors,
        )
    return _second(
        attention,
        Gated(read_hidden(own, "feed_forward_length")),
        norm_from_gguf(file),
        num_layers=read_layers(own, "block_count"),
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=read_context(own, "context_length"),
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def _second(
    attention: Attention,
    mlp: Gated,
    norm: Norm,
    *,
    num_layers: int,
    vocabulary: int,
    width: int,
    context: int,
    head: Head,
) -> ModelSpec:
    return ModelSpec(
        family="chatglm",
        vocabulary=vocabulary,
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Serial(norm, norm)),) * num_layers,
        final_norm=norm,
        head=head,
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json of either generation.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    if isinstance(spec.layers[0].residual, PostNorm):
        return _first_config(spec)
    attention, mlp, norm = shared_parts(spec)
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": attention.has_qkv_bias,
        "ffn_hidden_size": mlp.hidden,
        "hidden_size": spec.width,
        "kv_channels": attention.head_dim,
        "layernorm_epsilon": norm.epsilon,
        "multi_query_attention": attention.kv_heads != attention.heads,
        "multi_query_group_num": attention.kv_heads,
        "num_attention_heads": attention.heads,
        "num_layers": len(spec.layers),
        "original_rope": True,
        "padded_vocab_size": spec.vocabulary,
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": rotary_of(attention).base / _BASE,
        "seq_length": spec.context,
        "tie_word_embeddings": is_tied(spec),
    }


def _first_config(spec: ModelSpec) -> dict[str, Any]:
    attention, mlp, norm = shared_parts(spec)
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "hidden_size": spec.width,
        "inner_hidden_size": mlp.hidden,
        "layernorm_epsilon": norm.epsilon,
        "max_sequence_length": spec.context,
        "num_attention_heads": attention.heads,
        "num_layers": len(spec.layers),
        "position_encoding_2d": True,
        "tie_word_embeddings": is_tied(spec),
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of ChatGLM2 and 3.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    if isinstance(spec.layers[0].residual, PostNorm):
        raise ModelFormatError(
            "GGUF has no architecture for the first ChatGLM-6B; ChatGLM2 and 3 are converted."
        )
    return gguf_settings(spec, "chatglm")


family = families.register(
    Family(
        model_types=("chatglm",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("chatglm",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        ignored=("rotary_emb.inv_freq", "rotary_pos_emb.inv_freq"),
    ),
    __name__,
)
