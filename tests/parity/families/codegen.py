"""CodeGen and MOSS: GPT-J with queries, values and keys fused in four parts."""

from tests.parity.case import Case, change_rotary
from tests.parity.families.gptj import case as gptj
from tests.parity.oracles import TransformersOracle

case = Case(
    oracle=TransformersOracle("CodeGenForCausalLM"),
    config={**gptj.config, "n_head": 4, "rotary_dim": 4},
    variants={"plain": {}, "eight heads": {"n_head": 8}},
    ablations={"halves turn together": lambda spec: change_rotary(spec, layout="half")},
)
