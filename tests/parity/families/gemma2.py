"""Gemma 2: norms on either side, caps, a window in every second layer."""

from tests.parity.case import Case, change_attention, change_head
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("Gemma2ForCausalLM", {"attn_implementation": "eager"}),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "query_pre_attn_scalar": 24,
        "sliding_window": 8,
        "attn_logit_softcapping": 2.0,
        "final_logit_softcapping": 3.0,
        "max_position_embeddings": 64,
    },
    variants={"plain": {}},
    ablations={
        "scores not capped": lambda spec: change_attention(spec, soft_cap=None),
        "logits not capped": lambda spec: change_head(spec, soft_cap=None),
        "no window": lambda spec: change_attention(spec, window=None),
        "usual scale": lambda spec: change_attention(spec, scale=None),
    },
)
