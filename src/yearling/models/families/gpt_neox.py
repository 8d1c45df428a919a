"""GPT-NeoX: Dolly 2.0, Pythia, StableLM-Alpha, RedPajama-INCITE.

Layer norms and biases everywhere, partial rotary positions, attention and MLP side by side (or
one after the other, in RedPajama-INCITE 3B), queries, keys and values fused head by head.

Source: Black et al. 2022, arXiv:2204.06745.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.export_parts import is_tied, rotary_of, shared_parts
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
from yearling.models.rotary_settings import partial_rotary_from_config, rotary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
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

_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("gpt_neox.embed_in", "token_embd"),
    "mixer_norm": WeightName("gpt_neox.layers.{layer}.input_layernorm", "blk.{layer}.attn_norm"),
    "query": WeightName(
        "gpt_neox.layers.{layer}.attention.query_key_value", "blk.{layer}.attn_qkv", "groups"
    ),
    "key": WeightName(
        "gpt_neox.layers.{layer}.attention.query_key_value", "blk.{layer}.attn_qkv", "groups"
    ),
    "value": WeightName(
        "gpt_neox.layers.{layer}.attention.query_key_value", "blk.{layer}.attn_qkv", "groups"
    ),
    "output": WeightName("gpt_neox.layers.{layer}.attention.dense", "blk.{layer}.attn_output"),
    "mlp_norm": WeightName(
        "gpt_neox.layers.{layer}.post_attention_layernorm", "blk.{layer}.ffn_norm"
    ),
    "up": WeightName("gpt_neox.layers.{layer}.mlp.dense_h_to_4h", "blk.{layer}.ffn_up"),
    "down": WeightName("gpt_neox.layers.{layer}.mlp.dense_4h_to_h", "blk.{layer}.ffn_down"),
    "final_norm": WeightName("gpt_neox.final_layer_norm", "output_norm"),
    "head": WeightName("embed_out", "output"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    "attention_bias",
    "attention_dropout",
    "classifier_dropout",
    "hidden_act",
    "hidden_dropout",
    "hidden_size",
    "initializer_range",
    "intermediate_size",
    "layer_norm_eps",
    "max_position_embeddings",
    "num_attention_heads",
    "num_hidden_layers",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary_emb_base",
    "rotary_pct",
    "tie_word_embeddings",
    "use_parallel_residual",
    "vocab_size",
}
_GGUF_KEYS = ROTARY_GGUF_KEYS | {
    "attention.head_count",
    "attention.head_count_kv",
    "attention.layer_norm_epsilon",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "use_parallel_residual",
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `gpt_neox`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_attention_heads")
    context = read_context(config, "max_position_embeddings", 2_048)
    rotary = partial_rotary_from_config(
        config,
        width // heads,
        context,
        default_fraction=0.25,
        fraction_key="rotary_pct",
        base_key="rotary_emb_base",
    )
    has_bias = config.flag("attention_bias", True)
    with config.checked():
        attention = Attention(
            heads,
            heads,
            width // heads,
            rotary,
            has_qkv_bias=has_bias,
            has_output_bias=has_bias,
        )
    mlp = Plain(
        read_hidden(config, "intermediate_size", 4 * width),
        activation_from_config(config, "hidden_act", "gelu"),
    )
    return _spec(
        attention,
        mlp,
        Norm("layer", config.number("layer_norm_eps", 1e-5, above=0), has_bias=True),
        is_parallel=config.flag("use_parallel_residual", True),
        num_layers=read_layers(config, "num_hidden_layers"),
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        head=Head(is_tied=config.flag("tie_word_embeddings", False)),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `gptneox`."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    width = read_width(own, "embedding_length")
    heads = read_heads(own, "attention.head_count")
    dims = own.integer("rope.dimension_count", width // heads, minimum=2)
    rotary = rotary_from_gguf(file, Fields(file.metadata, str(file.path)), dims)
    with own.checked():
        attention = Attention(
            heads,
            read_heads(own, "attention.head_count_kv", heads),
            width // heads,
            rotary,
            has_qkv_bias=True,
            has_output_bias=True,
        )
    return _spec(
        attention,
        Plain(read_hidden(own, "feed_forward_length")),
        norm_from_gguf(file, "layer"),
        is_parallel=own.flag("use_parallel_residual", True),
        num_layers=read_layers(own, "block_count"),
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=read_context(own, "context_length"),
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def _spec(
    attention: Attention,
    mlp: Plain,
    norm: Norm,
    *,
    is_parallel: bool,
    num_layers: int,
    vocabulary: int,
    width: int,
    context: int,
    head: Head,
) -> ModelSpec:
    residual = Parallel(norm, norm) if is_parallel else Serial(norm, norm)
    return ModelSpec(
        family="gpt_neox",
        vocabulary=vocabulary,
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, residual),) * num_layers,
        final_norm=norm,
        head=head,
    )


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attention, mlp, norm = shared_parts(spec)
    rotary = rotary_to_config(rotary_of(attention))
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "attention_bias": attention.has_qkv_bias,
        "hidden_act": activation_to_config(mlp.activation),
        "hidden_size": spec.width,
        "intermediate_size": mlp.hidden,
        "layer_norm_eps": norm.epsilon,
        "max_position_embeddings": spec.context,
        "num_attention_heads": attention.heads,
        "num_hidden_layers": len(spec.layers),
        "rotary_emb_base": rotary.pop("rope_theta"),
        "rotary_pct": rotary_of(attention).dims / attention.head_dim,
        **rotary,
        "tie_word_embeddings": is_tied(spec),
        "use_parallel_residual": isinstance(spec.layers[0].residual, Parallel),
        "vocab_size": spec.vocabulary,
    }


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata of architecture `gptneox`.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    is_parallel = isinstance(spec.layers[0].residual, Parallel)
    return gguf_settings(spec, "gptneox", use_parallel_residual=is_parallel)


family = families.register(
    Family(
        model_types=("gpt_neox",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("gptneox",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        ignored=("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"),
    ),
    __name__,
)
