"""GPT-2: learned positions, matrices stored the other way round."""

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("GPT2LMHeadModel"),
    config={
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    variants={
        "plain": {},
        "scaled by layer": {"scale_attn_by_inverse_layer_idx": True},
        "wide MLP, not tied": {"n_inner": 80, "tie_word_embeddings": False},
    },
    ablations={
        "bands": lambda spec: change_attention(spec, window=4),
        "scaled by layer: not scaled": lambda spec: change_attention(spec, scale=None),
    },
)
