"""GPT-2, and GPT-3 with its banded layers.

Learned positions, layer norms and biases everywhere; matrices are stored (inputs, outputs). GPT-3
is the same model with every second layer looking at a band of the newest tokens, which
`attention_layers` and `window_size` say as GPT-Neo does.

Source: Radford et al. 2019, "Language models are unsupervised multitask learners"; Brown et al.
2020, arXiv:2005.14165, section 2.1.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from yearling.models.export_parts import is_tied
from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gguf_export import gguf_settings
from yearling.models.hugging_face_config import (
    COMMON_KEYS,
    activation_from_config,
    activation_to_config,
    banded_windows,
)
from yearling.models.llama_like_gguf import norm_from_gguf, own_settings, vocabulary_from_gguf
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
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


def _transposed(name: str, gguf: str) -> WeightName:
    return WeightName(
        f"transformer.h.{{layer}}.{name}", f"blk.{{layer}}.{gguf}", is_transposed=True
    )


_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte", "token_embd"),
    "position_embedding": WeightName("transformer.wpe", "position_embd"),
    "mixer_norm": WeightName("transformer.h.{layer}.ln_1", "blk.{layer}.attn_norm"),
    "query": _transposed("attn.c_attn", "attn_qkv"),
    "key": _transposed("attn.c_attn", "attn_qkv"),
    "value": _transposed("attn.c_attn", "attn_qkv"),
    "output": _transposed("attn.c_proj", "attn_output"),
    "mlp_norm": WeightName("transformer.h.{layer}.ln_2", "blk.{layer}.ffn_norm"),
    "up": _transposed("mlp.c_fc", "ffn_up"),
    "down": _transposed("mlp.c_proj", "ffn_down"),
    "final_norm": WeightName("transformer.ln_f", "output_norm"),
    "head": WeightName("lm_head", "output"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("activation_function", "attention_layers", "attention_types", "attn_pdrop", "embd_pdrop"),
    "initializer_range",
    *("layer_norm_epsilon", "n_ctx", "n_embd", "n_head", "n_inner", "n_layer", "n_positions"),
    *("reorder_and_upcast_attn", "resid_pdrop", "scale_attn_by_inverse_layer_idx"),
    *("scale_attn_weights", "summary_activation", "summary_first_dropout"),
    *("summary_proj_to_labels", "summary_type", "summary_use_proj", "tie_word_embeddings"),
    *("vocab_size", "window_size"),
}
_GGUF_KEYS = {
    *("attention.head_count", "attention.head_count_kv", "attention.layer_norm_epsilon"),
    *("block_count", "context_length", "embedding_length", "feed_forward_length"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight, for both formats."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `gpt2`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "n_embd")
    heads = read_heads(config, "n_head")
    context = read_context(config, "n_positions", 1_024)
    num_layers = read_layers(config, "n_layer")
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    mlp = Plain(
        read_hidden(config, "n_inner", 4 * width),
        activation_from_config(config, "activation_function", "gelu_new"),
    )
    scale = (width // heads) ** -0.5 if config.flag("scale_attn_weights", True) else 1.0
    is_scaled_by_layer = config.flag("scale_attn_by_inverse_layer_idx", False)
    layers = tuple(
        _layer(heads, width, mlp, norm, window, scale / (number + 1 if is_scaled_by_layer else 1))
        for number, window in enumerate(banded_windows(config, num_layers))
    )
    return ModelSpec(
        family="gpt2",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(positions=context),
        layers=layers,
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


def spec_from_gguf(file: "GgufFile") -> ModelSpec:
    """Read the metadata of a GGUF file of architecture `gpt2`."""
    own = own_settings(file)
    own.refuse_unknown(_GGUF_KEYS)
    width = read_width(own, "embedding_length")
    heads = read_heads(own, "attention.head_count")
    if read_heads(own, "attention.head_count_kv", heads) != heads:
        raise own.error("attention.head_count_kv", f"must equal the {heads} query heads")
    context = read_context(own, "context_length")
    norm = norm_from_gguf(file, "layer")
    hidden = read_hidden(own, "feed_forward_length", 4 * width)
    layer = _layer(heads, width, Plain(hidden, "gelu_tanh"), norm, None, (width // heads) ** -0.5)
    return ModelSpec(
        family="gpt2",
        vocabulary=vocabulary_from_gguf(file, own),
        width=width,
        context=context,
        embedding=Embedding(positions=context),
        layers=(layer,) * read_layers(own, "block_count"),
        final_norm=norm,
        head=Head(is_tied="output.weight" not in file.tensors),
    )


def _layer(
    heads: int, width: int, mlp: Plain, norm: Norm, window: int | None, scale: float
) -> LayerSpec:
    attention = Attention(
        heads,
        heads,
        width // heads,
        window=window,
        has_qkv_bias=True,
        has_output_bias=True,
        scale=scale,
    )
    return LayerSpec(attention, mlp, Serial(norm, norm))


def config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write config.json; GPT-3's bands go by the names that GPT-Neo gave them.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    attentions = [layer.mixer for layer in spec.layers if isinstance(layer.mixer, Attention)]
    mlp, norm = spec.layers[0].mlp, spec.final_norm
    assert isinstance(mlp, Plain), "GPT-2 has no gates"
    assert norm is not None, "GPT-2 ends in a norm"
    bands = sorted({attention.window or 0 for attention in attentions})
    config = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": activation_to_config(mlp.activation),
        "layer_norm_epsilon": norm.epsilon,
        "n_embd": spec.width,
        "n_head": attentions[0].heads,
        "n_inner": mlp.hidden,
        "n_layer": len(spec.layers),
        "n_positions": spec.context,
        "scale_attn_by_inverse_layer_idx": attentions[0].scale != attentions[-1].scale,
        "scale_attn_weights": attentions[0].scale != 1,
        "tie_word_embeddings": is_tied(spec),
        "vocab_size": spec.vocabulary,
    }
    if bands != [0]:
        kinds = ["global" if attention.window is None else "local" for attention in attentions]
        config |= {"attention_layers": kinds, "window_size": bands[-1]}
    return config


def gguf_from_spec(spec: ModelSpec) -> dict[str, Any]:
    """Write GGUF metadata.

    Raises:
        ModelFormatError: a part of the spec has no place there.
    """
    return gguf_settings(spec, "gpt2")


family = families.register(
    Family(
        model_types=("gpt2",),
        spec_from_config=spec_from_config,
        names=names,
        gguf_architectures=("gpt2",),
        spec_from_gguf=spec_from_gguf,
        config_from_spec=config_from_spec,
        gguf_from_spec=gguf_from_spec,
        prefixes=("transformer.",),
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
    __name__,
)
