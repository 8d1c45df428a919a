"""MPT: ALiBi without any bias, and clamped projections."""

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import NoPositions

case = Case(
    oracle=TransformersOracle("MptForCausalLM"),
    config={"vocab_size": 97, "d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": 64},
    variants={
        "six heads": {},
        "clamped": {"attn_config": {"clip_qkv": 0.5, "alibi": True}},
        # transformers leaves `alibi_bias_max` unread, so that stays what it is by default.
        "other scale": {"attn_config": {"softmax_scale": 0.2}},
    },
    ablations={
        "no positions": lambda spec: change_attention(spec, positions=NoPositions()),
        "clamped: not clamped": lambda spec: change_attention(spec, clip_qkv=None),
    },
)
