"""PaLM: attention and SwiGLU side by side, one key head, logits scaled by 1/sqrt(E)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.parity.case import Case, change_head, change_rotary
from tests.parity.golden import Floats, attend, layer_norm, linear, rotate, silu, split_heads
from tests.parity.oracles import GoldenOracle


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, hidden, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries = config["num_attention_heads"] * size
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    shapes["model.norm.weight"] = (width,)
    for layer in range(config["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.self_attn.q_proj.weight": (queries, width),
            f"{at}.self_attn.k_proj.weight": (size, width),
            f"{at}.self_attn.v_proj.weight": (size, width),
            f"{at}.self_attn.o_proj.weight": (width, queries),
            f"{at}.mlp.gate_proj.weight": (hidden, width),
            f"{at}.mlp.up_proj.weight": (hidden, width),
            f"{at}.mlp.down_proj.weight": (width, hidden),
        }
    return shapes


def _logits(
    weights: Mapping[str, Floats], config: Mapping[str, Any], ids: Sequence[int], _: int
) -> Floats:
    heads, size = config["num_attention_heads"], config["head_dim"]
    none = np.zeros(config["hidden_size"])
    angles = np.outer(np.arange(len(ids)), 10_000.0 ** (-np.arange(0, size, 2) / size))
    x = weights["model.embed_tokens.weight"][list(ids)]
    for layer in range(config["num_hidden_layers"]):
        w = {
            name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        h = layer_norm(x, w["input_layernorm"], none, config["layer_norm_eps"])
        q = rotate(split_heads(linear(h, w["self_attn.q_proj"]), heads), angles)
        k = rotate(split_heads(linear(h, w["self_attn.k_proj"]), 1), angles)
        v = split_heads(linear(h, w["self_attn.v_proj"]), 1)
        mixed = attend(q, k, v)
        inner = silu(linear(h, w["mlp.gate_proj"])) * linear(h, w["mlp.up_proj"])
        x = x + linear(mixed, w["self_attn.o_proj"]) + linear(inner, w["mlp.down_proj"])
    x = layer_norm(x, weights["model.norm.weight"], none, config["layer_norm_eps"])
    scale = float(config["hidden_size"]) ** -0.5
    return linear(x, weights["model.embed_tokens.weight"]) * scale


case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={
        "model_type": "palm",
        "vocab_size": 97,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "head_dim": 12,
        "intermediate_size": 48,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-5,
    },
    variants={"plain": {}, "two heads": {"num_attention_heads": 2}},
    ablations={
        "other base": lambda spec: change_rotary(spec, base=30.0),
        "unscaled logits": lambda spec: change_head(spec, scale=1.0),
    },
)
