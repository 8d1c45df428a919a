"""Skywork: LLaMA's class computes the same under another `model_type`."""

from typing import Any

from tests.parity.case import Case, change_rotary
from tests.parity.oracles import TransformersOracle, Weights


def _as_skywork(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    del config["attention_bias"], config["mlp_bias"]
    return config | {"model_type": "skywork", "architectures": ["SkyworkForCausalLM"]}, weights


case = Case(
    oracle=TransformersOracle("LlamaForCausalLM", rewrite=_as_skywork),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    variants={"plain": {}},
    ablations={"other base": lambda spec: change_rotary(spec, base=1e3)},
)
