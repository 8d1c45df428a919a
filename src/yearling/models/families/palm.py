"""PaLM: attention and MLP side by side, one key head, SwiGLU, no biases, a shared embedding.

No checkpoint was published; `config.json` takes the usual Hugging Face keys.

Source: Chowdhery et al. 2022, arXiv:2204.02311, section 2; the factor on logits from section 5.
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.rotary_settings import rotary_from_config
from yearling.models.sizes import read_context, read_heads, read_hidden, read_layers, read_width
from yearling.models.spec import (
    Attention,
    Embedding,
    Gated,
    Head,
    LayerSpec,
    ModelSpec,
    Norm,
    Parallel,
)
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("model.embed_tokens"),
    "mixer_norm": WeightName("model.layers.{layer}.input_layernorm"),
    "query": WeightName("model.layers.{layer}.self_attn.q_proj"),
    "key": WeightName("model.layers.{layer}.self_attn.k_proj"),
    "value": WeightName("model.layers.{layer}.self_attn.v_proj"),
    "output": WeightName("model.layers.{layer}.self_attn.o_proj"),
    "gate": WeightName("model.layers.{layer}.mlp.gate_proj"),
    "up": WeightName("model.layers.{layer}.mlp.up_proj"),
    "down": WeightName("model.layers.{layer}.mlp.down_proj"),
    "final_norm": WeightName("model.norm"),
    "head": WeightName("lm_head"),
}
_CONFIG_KEYS = COMMON_KEYS | {
    *("head_dim", "hidden_size", "initializer_range", "intermediate_size", "layer_norm_eps"),
    *("max_position_embeddings", "num_attention_heads", "num_hidden_layers", "rope_parameters"),
    *("rope_scaling", "rope_theta", "vocab_size"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `palm`."""
    config.refuse_unknown(_CONFIG_KEYS)
    width = read_width(config, "hidden_size")
    heads = read_heads(config, "num_attention_heads")
    head_dim = read_width(config, "head_dim", 256)
    context = read_context(config, "max_position_embeddings", 2_048)
    norm = Norm("layer", config.number("layer_norm_eps", 1e-5, above=0))
    with config.checked():
        attention = Attention(heads, 1, head_dim, rotary_from_config(config, head_dim, context))
    mlp = Gated(read_hidden(config, "intermediate_size", 4 * width))
    return ModelSpec(
        family="palm",
        vocabulary=config.integer("vocab_size", minimum=1),
        width=width,
        context=context,
        embedding=Embedding(),
        layers=(LayerSpec(attention, mlp, Parallel(norm)),)
        * read_layers(config, "num_hidden_layers"),
        final_norm=norm,
        head=Head(is_tied=True, scale=width**-0.5),
    )


family = families.register(
    Family(model_types=("palm",), spec_from_config=spec_from_config, names=names), __name__
)
