"""TeleChat by its definition: key and value fused by head, NTK in steps, growing cosines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.golden import Floats, attend, linear, rms_norm, rotate, silu, split_heads
from tests.parity.oracles import GoldenOracle
from yearling.models.spec import Gated, ModelSpec


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, hidden, vocabulary = (
        config[key] for key in ("hidden_size", "ffn_hidden_size", "vocab_size")
    )
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.word_embeddings.weight": (vocabulary, width),
        "transformer.ln_f.weight": (width,),
    }
    for layer in range(config["n_layer"]):
        block = f"transformer.h.{layer}."
        shapes |= {
            f"{block}input_layernorm.weight": (width,),
            f"{block}self_attention.query.weight": (width, width),
            f"{block}self_attention.key_value.weight": (2 * width, width),
            f"{block}self_attention.dense.weight": (width, width),
            f"{block}self_attention.dense.bias": (width,),
            f"{block}post_attention_layernorm.weight": (width,),
            f"{block}mlp.gate_proj.weight": (hidden, width),
            f"{block}mlp.up_proj.weight": (hidden, width),
            f"{block}mlp.down_proj.weight": (width, hidden),
            f"{block}mlp.down_proj.bias": (width,),
        }
    return shapes


def _turning(config: Mapping[str, Any], num_tokens: int, num_prompt: int) -> tuple[Floats, Floats]:
    """Angles of each token, and the factor on its cosine and sine."""
    dims = config["hidden_size"] // config["n_head"]
    angles, factors = [], []
    for position in range(num_tokens):
        length = max(num_prompt, position + 1, config["training_seqlen"])
        alpha = max(2 ** math.ceil(math.log2(length / config["base_seqlen"]) + 1) - 1, 1)
        base = 10_000.0 * alpha ** (dims / (dims - 2))
        angles.append(position * base ** (-np.arange(0, dims, 2) / dims))
        factors.append(0.1 * math.log(length / config["training_seqlen"]) + 1)
    return np.array(angles), np.array(factors)[:, None]


def _logits(
    weights: Mapping[str, Floats], config: Mapping[str, Any], ids: Sequence[int], num_prompt: int
) -> Floats:
    heads, epsilon = config["n_head"], config["layer_norm_epsilon"]
    angles, factors = _turning(config, len(ids), num_prompt)
    x = weights["transformer.word_embeddings.weight"][list(ids)]
    for layer in range(config["n_layer"]):
        start = f"transformer.h.{layer}."
        w = {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}
        h = rms_norm(x, w["input_layernorm.weight"], epsilon)
        q = split_heads(linear(h, w["self_attention.query.weight"]), heads)
        both = split_heads(linear(h, w["self_attention.key_value.weight"]), heads)
        k, v = np.split(both, 2, axis=-1)
        q, k = rotate(q, angles) * factors, rotate(k, angles) * factors
        h = attend(q, k, v)
        x = x + linear(h, w["self_attention.dense.weight"], w["self_attention.dense.bias"])
        h = rms_norm(x, w["post_attention_layernorm.weight"], epsilon)
        h = silu(linear(h, w["mlp.gate_proj.weight"])) * linear(h, w["mlp.up_proj.weight"])
        x = x + linear(h, w["mlp.down_proj.weight"], w["mlp.down_proj.bias"])
    x = rms_norm(x, weights["transformer.ln_f.weight"], epsilon)
    return linear(x, weights["transformer.word_embeddings.weight"])


def _no_down_bias(spec: ModelSpec) -> ModelSpec:
    layers = []
    for layer in spec.layers:
        assert isinstance(layer.mlp, Gated)
        layers.append(replace(layer, mlp=replace(layer.mlp, has_down_bias=False)))
    return replace(spec, layers=tuple(layers))


case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={
        "model_type": "telechat",
        "vocab_size": 97,
        "hidden_size": 32,
        "ffn_hidden_size": 48,
        "n_layer": 3,
        "n_head": 4,
        "layer_norm_epsilon": 1e-5,
        "seq_length": 16,
        "training_seqlen": 16,
        "base_seqlen": 16,
    },
    variants={"12B": {}, "7B": {"base_seqlen": 8}},
    ablations={
        "12B: no scaling": lambda spec: change_rotary(spec, scaling=None),
        "12B: no bias on the down projection": _no_down_bias,
        "12B: no bias on the output projection": lambda spec: change_attention(
            spec, has_output_bias=False
        ),
    },
)
