"""BLOOM: ALiBi, also with a number of heads that is no power of two."""

from dataclasses import replace

from tests.parity.case import Case, change_attention
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import NoPositions

case = Case(
    oracle=TransformersOracle("BloomForCausalLM"),
    config={"vocab_size": 97, "hidden_size": 48, "n_layer": 2, "n_head": 6},
    variants={"six heads": {}, "eight heads": {"n_head": 8}},
    ablations={
        "no positions": lambda spec: change_attention(spec, positions=NoPositions()),
        "no norm behind the embedding": lambda spec: replace(
            spec, embedding=replace(spec.embedding, norm=None)
        ),
    },
)
