"""PanGu-α: a query layer on top that asks with an embedding of the position."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.parity.case import Case
from tests.parity.golden import Floats, attend, gelu_tanh, layer_norm, linear, split_heads
from tests.parity.oracles import GoldenOracle
from yearling.models.spec import ModelSpec


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, hidden = config["hidden_size"], config["intermediate_size"]
    positions = config["max_position_embeddings"]
    shapes = {
        "transformer.wte.weight": (config["vocab_size"], width),
        "transformer.wpe.weight": (positions, width),
        "transformer.wqe.weight": (positions, width),
        "transformer.ln_f.weight": (width,),
        "transformer.ln_f.bias": (width,),
        "lm_head.weight": (config["vocab_size"], width),
    }
    for layer in range(config["num_layers"]):
        modules = {
            **dict.fromkeys(("ln_1", "ln_2"), (width,)),
            **{f"attn.{part}_proj": (width, width) for part in "qkvc"},
            "mlp.c_fc": (hidden, width),
            "mlp.c_proj": (width, hidden),
        }
        for name, shape in modules.items():
            shapes[f"transformer.h.{layer}.{name}.weight"] = shape
            shapes[f"transformer.h.{layer}.{name}.bias"] = shape[:1]
    return shapes


def _logits(
    weights: Mapping[str, Floats], config: Mapping[str, Any], ids: Sequence[int], _: int
) -> Floats:
    heads, epsilon = config["num_heads"], config["layer_norm_epsilon"]
    last = config["num_layers"] - 1

    def module(name: str) -> tuple[Floats, Floats]:
        return weights[f"transformer.{name}.weight"], weights[f"transformer.{name}.bias"]

    positions = np.arange(len(ids))
    x = weights["transformer.wte.weight"][list(ids)] + weights["transformer.wpe.weight"][positions]
    for layer in range(config["num_layers"]):
        at = f"h.{layer}"
        if layer == last:
            x = layer_norm(x, *module("ln_f"), epsilon)
        h = layer_norm(x, *module(f"{at}.ln_1"), epsilon)
        asking = weights["transformer.wqe.weight"][positions] if layer == last else h
        q = split_heads(linear(asking, *module(f"{at}.attn.q_proj")), heads)
        k = split_heads(linear(h, *module(f"{at}.attn.k_proj")), heads)
        v = split_heads(linear(h, *module(f"{at}.attn.v_proj")), heads)
        x = x + linear(attend(q, k, v), *module(f"{at}.attn.c_proj"))
        h = layer_norm(x, *module(f"{at}.ln_2"), epsilon)
        inner = gelu_tanh(linear(h, *module(f"{at}.mlp.c_fc")))
        x = x + linear(inner, *module(f"{at}.mlp.c_proj"))
    return linear(x, weights["lm_head.weight"])


def _without_stream_norm(spec: ModelSpec) -> ModelSpec:
    """Leave the residual stream as it is in front of the query layer."""
    layers = tuple(replace(layer, stream_norm=None) for layer in spec.layers)
    return replace(spec, layers=layers)


def _asking_with_the_hidden_state(spec: ModelSpec) -> ModelSpec:
    """Make the query layer an ordinary one."""
    layers = tuple(
        replace(layer, mixer=replace(layer.mixer, query_positions=None)) for layer in spec.layers
    )
    return replace(spec, layers=layers)


case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={
        "model_type": "gpt_pangu",
        "vocab_size": 97,
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
    },
    variants={"plain": {}},
    ablations={
        "no norm before the query layer": _without_stream_norm,
        "no query layer": _asking_with_the_hidden_state,
    },
)
