"""GPT-J: one norm for both branches, interleaved partial rotary positions, a bias on the head."""

from tests.parity.case import Case, change_rotary
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("GPTJForCausalLM"),
    config={
        "vocab_size": 97,
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 2,
        "rotary_dim": 8,
        "n_positions": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    variants={"plain": {}, "all dimensions turn": {"rotary_dim": 16}},
    ablations={
        "halves turn together": lambda spec: change_rotary(spec, layout="half"),
        "other base": lambda spec: change_rotary(spec, base=30.0),
    },
)
