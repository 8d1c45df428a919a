"""GPT-Neo: GPT-2's model with banded layers, as GPT-3 has, and unscaled attention.

Source: Black et al. 2021, "GPT-Neo: large scale autoregressive language modeling with
Mesh-TensorFlow".
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import (
    COMMON_KEYS,
    activation_from_config,
    banded_windows,
)
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

__all__ = ["family", "names", "spec_from_config"]

_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte"),
    "position_embedding": WeightName("transformer.wpe"),
    "mixer_norm": WeightName("transformer.h.{layer}.ln_1"),
    "query": WeightName("transformer.h.{layer}.attn.attention.q_proj"),
    "key": WeightName("transformer.h.{layer}.attn.attention.k_proj"),
    "value": WeightName("transformer.h.{layer}.attn.attention.v_proj"),
    "output": WeightName("transformer.h.{layer}.attn.attention.out_proj"),
    "mlp_norm": WeightName("transformer.h.{layer}.ln_2"),
    "up": WeightName("transformer.h.{layer}.mlp.c_fc"),
    "down": WeightName("transformer.h.{layer}.mlp.c_proj"),
    "final_norm": WeightName("transformer.ln_f"),
    "head": WeightName("lm_head"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("activation_function", "attention_dropout", "attention_layers", "attention_types"),
    *("classifier_dropout", "embed_dropout", "gradient_checkpointing", "hidden_size"),
    *("initializer_range", "intermediate_size", "layer_norm_epsilon", "max_position_embeddings"),
    *("num_heads", "num_layers", "resid_dropout", "summary_activation", "summary_first_dropout"),
    *("summary_proj_to_labels", "summary_type", "summary_use_proj", "tie_word_embeddings"),
    *("vocab_size", "window_size"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `gpt_neo`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_heads")
    context = read_context(config, "max_position_embeddings", 2_048)
    num_layers = read_layers(config, "num_layers")
    norm = Norm("layer", config.number("layer_norm_epsilon", 1e-5, above=0), has_bias=True)
    mlp = Plain(
        read_hidden(config, "intermediate_size", 4 * width),
        activation_from_config(config, "activation_function", "gelu_new"),
    )
    layers = tuple(
        LayerSpec(
            Attention(heads, heads, width // heads, window=window, has_output_bias=True, scale=1.0),
            mlp,
            Serial(norm, norm),
        )
        for window in banded_windows(config, num_layers)
    )
    return ModelSpec(
        family="gpt_neo",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(positions=context),
        layers=layers,
        final_norm=norm,
        head=Head(is_tied=config.flag("tie_word_embeddings", True)),
    )


family = families.register(
    Family(
        model_types=("gpt_neo",),
        spec_from_config=spec_from_config,
        names=names,
        prefixes=("transformer.",),
        ignored=(".attention.bias", ".attention.masked_bias"),
    ),
    __name__,
)
