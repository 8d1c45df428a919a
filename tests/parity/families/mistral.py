"""Mistral: grouped queries and a sliding window."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("MistralForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "sliding_window": 8,
    },
    variants={
        "window": {},
        "no window": {
            "sliding_window": None,
            "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
        },
    },
    ablations={
        "no window": lambda spec: change_attention(spec, window=None),
        "other base": lambda spec: change_rotary(spec, base=1e3),
    },
)
