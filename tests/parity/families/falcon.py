"""Falcon: 7B's one key head, 40B's groups with two norms, and the small ones' ALiBi."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import Alibi

case = Case(
    oracle=TransformersOracle("FalconForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_hidden_size": 64,
        "max_position_embeddings": 64,
    },
    variants={
        "7B": {},
        "40B": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "11B": {
            "new_decoder_architecture": True,
            "num_kv_heads": 2,
            "num_ln_in_parallel_attn": 1,
        },
        "1B": {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
    },
    ablations={
        "other base": lambda spec: change_rotary(spec, base=30.0),
        "1B: biases not scaled": lambda spec: change_attention(spec, positions=Alibi()),
    },
)
