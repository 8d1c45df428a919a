"""InternLM: LLaMA's class with biases on all four projections, or on none (20B)."""

from typing import Any

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle, Weights


def _as_internlm(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Say it in InternLM's own words."""
    del config["mlp_bias"]
    scaling = config.pop("rope_parameters")
    config |= {"model_type": "internlm", "bias": config.pop("attention_bias")}
    is_dynamic = scaling["rope_type"] == "dynamic"
    return config | {
        "architectures": ["InternLMForCausalLM"],
        "rotary": {
            "base": scaling["rope_theta"],
            "type": "dynamic" if is_dynamic else "origin",
            "scaling_factor": scaling.get("factor", 1.0),
        },
    }, weights


case = Case(
    oracle=TransformersOracle("LlamaForCausalLM", rewrite=_as_internlm),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
    },
    variants={
        "7B, biases": {"attention_bias": True},
        "20B, dynamic NTK": {
            "rope_scaling": {"rope_type": "dynamic", "factor": 1.0},
            "max_position_embeddings": 16,
        },
    },
    ablations={
        "7B, biases: no output bias": lambda spec: change_attention(spec, has_output_bias=False),
    },
)
