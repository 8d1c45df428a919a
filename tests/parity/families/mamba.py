"""Mamba: the scan over a prompt, the recurrence of an answer, and prompts in parts."""

from dataclasses import replace

from tests.parity.case import Case
from tests.parity.oracles import TransformersOracle
from yearling.models.spec import ModelSpec, Norm, Serial


def _other_epsilon(spec: ModelSpec) -> ModelSpec:
    """Norms that see values near zero as zero."""
    residual = Serial(Norm(epsilon=1.0))
    layers = tuple(replace(layer, residual=residual) for layer in spec.layers)
    return replace(spec, layers=layers)


case = Case(
    oracle=TransformersOracle("MambaForCausalLM", cache="cache_params"),
    config={
        "vocab_size": 97,
        "hidden_size": 24,
        "num_hidden_layers": 3,
        "state_size": 8,
        "time_step_rank": 5,
    },
    variants={
        "plain": {},
        "more taps, biases": {"conv_kernel": 6, "use_bias": True, "use_conv_bias": False},
    },
    ablations={"other norm": _other_epsilon},
)
