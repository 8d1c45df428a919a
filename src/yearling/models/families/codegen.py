"""CodeGen and MOSS: GPT-J's layers, with queries, values and keys fused in four parts.

Source: Nijkamp et al. 2022, arXiv:2203.13474; Sun et al. 2023, "MOSS: training conversational
language models from synthetic data", whose 16B model continues CodeGen's.
"""

from collections.abc import Mapping

from yearling.models.families import Family, families
from yearling.models.fields import Fields
from yearling.models.gptj_layers import GPTJ_KEYS, gptj_spec
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

__all__ = ["family", "names", "spec_from_config"]

_FUSED = WeightName("transformer.h.{layer}.attn.qkv_proj", rows="quarters")
_NAMES: Mapping[Role, WeightName] = {
    "embedding": WeightName("transformer.wte"),
    "mixer_norm": WeightName("transformer.h.{layer}.ln_1"),
    "query": _FUSED,
    "value": _FUSED,
    "key": _FUSED,
    "output": WeightName("transformer.h.{layer}.attn.out_proj"),
    "up": WeightName("transformer.h.{layer}.mlp.fc_in"),
    "down": WeightName("transformer.h.{layer}.mlp.fc_out"),
    "final_norm": WeightName("transformer.ln_f"),
    "head": WeightName("lm_head"),
}
_CONFIG_KEYS = GPTJ_KEYS | {"groupsize", "n_ctx", "wbits"}  # MOSS names its quantisation


def names(spec: ModelSpec) -> Mapping[Role, WeightName]:
    """Name every weight."""
    return _NAMES


def spec_from_config(config: Fields) -> ModelSpec:
    """Read config.json of model type `codegen` or `moss`."""
    config.refuse_unknown(_CONFIG_KEYS)
    if config.integer("wbits", 32) not in (16, 32):
        raise config.error("wbits", "is of a quantised checkpoint, which is not read")
    spec = gptj_spec("codegen", config)
    for layer in spec.layers[:1]:
        if getattr(layer.mixer, "heads", 0) % 4:
            raise config.error("n_head", "must be a multiple of 4: weights are fused in four parts")
    return spec


family = families.register(
    Family(
        model_types=("codegen", "moss"),
        spec_from_config=spec_from_config,
        names=names,
        ignored=(".attn.bias", ".attn.masked_bias", ".attn.causal_mask"),
    ),
    __name__,
)
