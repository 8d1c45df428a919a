"""StableLM-Epoch: layer norms, a quarter of each head rotated."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("StableLmForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    variants={
        "plain": {},
        "biases, grouped queries": {"use_qkv_bias": True, "num_key_value_heads": 1},
    },
    ablations={
        "plain: whole heads rotated": lambda spec: change_rotary(spec, dims=16),
        "biases, grouped queries: no bias": lambda spec: change_attention(spec, has_qkv_bias=False),
    },
)
