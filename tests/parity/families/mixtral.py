"""Mixtral: two of three experts per token."""

from dataclasses import replace

from tests.parity.case import Case
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import Experts, ModelSpec


def _one_expert(spec: ModelSpec) -> ModelSpec:
    layers = []
    for layer in spec.layers:
        assert isinstance(layer.mlp, Experts)
        layers.append(replace(layer, mlp=replace(layer.mlp, active=1)))
    return replace(spec, layers=tuple(layers))


case = Case(
    oracle=TransformersOracle("MixtralForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 3,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 64,
    },
    variants={"two of three": {}, "three of three": {"num_experts_per_tok": 3}},
    ablations={"one expert instead of two": _one_expert},
)
