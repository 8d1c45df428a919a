"""Gemma: offset norms, a scaled embedding, tanh-GELU gates."""

from dataclasses import replace

from tests.parity.case import Case
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import Embedding

case = Case(
    oracle=TransformersOracle("GemmaForCausalLM"),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 64,
    },
    variants={"plain": {}},
    ablations={"embedding as it is": lambda spec: replace(spec, embedding=Embedding())},
)
