"""Qwen 2: biases on query, key and value alone; a window in the upper layers."""

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("Qwen2ForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    variants={
        "plain": {},
        "window above": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
        "yarn, tied head": {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            },
            "tie_word_embeddings": True,
        },
    },
    ablations={
        "plain: no bias": lambda spec: change_attention(spec, has_qkv_bias=False),
        "window above: no window": lambda spec: change_attention(spec, window=None),
    },
)
