"""LLaMA: every variant of the layout that the others build on."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle

_LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

case = Case(
    oracle=TransformersOracle("LlamaForCausalLM"),
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
        "one key head": {"num_key_value_heads": 1},
        "wide heads": {"head_dim": 24, "num_key_value_heads": 4},
        "biases, tied head": {
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
        "linear scaling": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        "llama 3 scaling": {"rope_scaling": _LLAMA_3},
        "yarn": {
            "rope_scaling": {
                "rope_type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
        "dynamic scaling": {
            "rope_scaling": {"rope_type": "dynamic", "factor": 2.0},
            "max_position_embeddings": 16,
        },
    },
    ablations={
        "plain: other base": lambda spec: change_rotary(spec, base=1e3),
        "biases, tied head: no bias": lambda spec: change_attention(spec, has_qkv_bias=False),
        "linear scaling: no scaling": lambda spec: change_rotary(spec, scaling=None),
        "llama 3 scaling: no scaling": lambda spec: change_rotary(spec, scaling=None),
        "yarn: no scaling": lambda spec: change_rotary(spec, scaling=None),
        "dynamic scaling: no scaling": lambda spec: change_rotary(spec, scaling=None),
    },
)
