"""Qwen 3: queries and keys normed per head, heads of their own size."""

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("Qwen3ForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 64,
    },
    variants={
        "plain": {},
        "window above": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        "biases": {"attention_bias": True, "tie_word_embeddings": True},
    },
    ablations={
        "plain: no norm of queries": lambda spec: change_attention(spec, query_norm=None),
        "plain: no norm of keys": lambda spec: change_attention(spec, key_norm=None),
    },
)
