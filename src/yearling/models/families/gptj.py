"""GPT-J: attention and MLP side by side behind one norm, interleaved partial rotary positions.

Source: Wang and Komatsuzaki 2021, "GPT-J-6B: a 6 billion parameter autoregressive language model".
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gptj_layers import GPTJ_KEYS, gptj_spec
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte"),
    "mixer_norm": WeightName("transformer.h.{layer}.ln_1"),
    "query": WeightName("transformer.h.{layer}.attn.q_proj"),
    "key": WeightName("transformer.h.{layer}.attn.k_proj"),
    "value": WeightName("transformer.h.{layer}.attn.v_proj"),
    "output": WeightName("transformer.h.{layer}.attn.out_proj"),
    "up": WeightName("transformer.h.{layer}.mlp.fc_in"),
    "down": WeightName("transformer.h.{layer}.mlp.fc_out"),
    "final_norm": WeightName("transformer.ln_f"),
    "head": WeightName("lm_head"),
}


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `gptj`."""
    config.refuse_unknown(GPTJ_KEYS)
    return gptj_spec("gptj", config)


family = families.register(
    Family(
        model_types=("gptj",),
        spec_from_config=spec_from_config,
        names=names,
        ignored=(".attn.bias", ".attn.masked_bias"),
    ),
    __name__,
)
