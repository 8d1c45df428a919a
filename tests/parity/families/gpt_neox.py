"""GPT-NeoX: parallel and serial residuals, partial rotary positions, fused head by head."""

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("GPTNeoXForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 64,
    },
    variants={
        "parallel": {"rotary_pct": 0.5},
        "one after the other": {"use_parallel_residual": False},
        "stretched": {
            "rope_parameters": {
                "rope_type": "linear",
                "factor": 4.0,
                "rope_theta": 10_000.0,
                "partial_rotary_factor": 1.0,
            }
        },
    },
    ablations={
        "other base": lambda spec: change_rotary(spec, base=30.0),
        "stretched: not stretched": lambda spec: change_rotary(spec, scaling=None),
        "unscaled attention": lambda spec: change_attention(spec, scale=1.0),
    },
)
