"""GPT-Neo: banded layers, as GPT-3 has, and unscaled attention."""

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("GPTNeoForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 4,
        "num_heads": 4,
        "max_position_embeddings": 64,
        "attention_types": [[["global", "local"], 2]],
        "window_size": 8,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    variants={"banded": {}, "all global": {"attention_types": [[["global"], 4]]}},
    ablations={
        "no bands": lambda spec: change_attention(spec, window=None),
        "scaled": lambda spec: change_attention(spec, scale=None),
    },
)
