"""Gemma 3: local and global layers with a rotary base each, normed queries and keys."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle

_SCALED = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
}

case = Case(
    oracle=TransformersOracle("Gemma3ForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        "sliding_window": 8,
        "max_position_embeddings": 64,
    },
    variants={
        "plain": {},
        "global layers scaled": {"rope_parameters": _SCALED},
        "logits capped": {"final_logit_softcapping": 3.0},
    },
    ablations={
        "plain: one base": lambda spec: change_rotary(spec, base=1e6),
        "plain: no window": lambda spec: change_attention(spec, window=None),
        "plain: no norm of queries": lambda spec: change_attention(spec, query_norm=None),
    },
)
