"""Phi-1.5 and Phi-2: parallel branches, part of each head rotated, biases everywhere."""

from tests.parity.case import Case, change_head, change_rotary
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("PhiForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    variants={
        "half rotated": {},
        "a quarter rotated, grouped queries": {
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "partial_rotary_factor": 0.25,
            },
            "num_key_value_heads": 1,
        },
    },
    ablations={
        "whole heads rotated": lambda spec: change_rotary(spec, dims=16),
        "no bias on the head": lambda spec: change_head(spec, has_bias=False),
    },
)
