"""Phi-1.5 and Phi-2 as first published: the same network under other keys and names.

Source: Li et al. 2023, arXiv:2309.05463; configuration_phi.py of the first published models.
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.hugging_face_config import COMMON_KEYS
from yearling.models.phi_like import phi_like_spec
from yearling.models.sizes import read_heads, read_hidden, read_width
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_CONFIG_KEYS = COMMON_KEYS | {
    *("attn_pdrop", "embd_pdrop", "initializer_range", "resid_pdrop"),  # training only
    *("flash_attn", "flash_rotary", "fused_dense"),  # faster ways to the same numbers
    *("activation_function", "layer_norm_epsilon", "n_embd", "n_head", "n_head_kv", "n_inner"),
    *("n_layer", "n_positions", "rotary_dim", "tie_word_embeddings", "vocab_size"),
}
_RENAMED = {
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_key_value_heads",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
    "tie_word_embeddings": "tie_word_embeddings",
    "vocab_size": "vocab_size",
}
_BLOCK = "transformer.h.{layer}"
_QKV = WeightName(f"{_BLOCK}.mixer.Wqkv")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.embd.wte"),
    "mixer_norm": WeightName(f"{_BLOCK}.ln"),
    "query": _QKV,
    "key": _QKV,
    "value": _QKV,
    "output": WeightName(f"{_BLOCK}.mixer.out_proj"),
    "up": WeightName(f"{_BLOCK}.mlp.fc1"),
    "down": WeightName(f"{_BLOCK}.mlp.fc2"),
    "final_norm": WeightName("lm_head.ln"),
    "head": WeightName("lm_head.linear"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json: its keys are renamed, and `phi` reads them.

    Raises:
        ModelFormatError: a value is missing, out of range, or asks for something unknown.
    """
    config.refuse_unknown(_CONFIG_KEYS)
    width, heads = read_width(config, "n_embd"), read_heads(config, "n_head")
    values = {new: config.values[old] for old, new in _RENAMED.items() if old in config}
    values["intermediate_size"] = read_hidden(config, "n_inner", 4 * width)
    rotated = config.integer("rotary_dim", 32, minimum=2, maximum=max(width // heads, 2))
    values["partial_rotary_factor"] = rotated / (width // heads)
    return phi_like_spec(Fields(values, config.label), "phi_msft")


family = families.register(
    Family(
        model_types=("phi-msft",),
        spec_from_config=spec_from_config,
        names=names,
        ignored=("rotary_emb.inv_freq",),
    ),
    __name__,
)
