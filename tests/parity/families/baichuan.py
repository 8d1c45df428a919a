"""Baichuan by its definition: 7B rotates, 13B has ALiBi, Baichuan 2 normalises its head."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.parity.case import Case, change_attention, change_head
from tests.parity.golden import (
    Floats,
    alibi_slopes,
    attend,
    linear,
    rms_norm,
    rotate,
    silu,
    split_heads,
)
from tests.parity.oracles import GoldenOracle
from yearling.models.spec import Rotary


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, hidden, vocabulary = (
        config[key] for key in ("hidden_size", "intermediate_size", "vocab_size")
    )
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (vocabulary, width),
        "model.norm.weight": (width,),
        "lm_head.weight": (vocabulary, width),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        shapes |= {
            f"{block}input_layernorm.weight": (width,),
            f"{block}self_attn.W_pack.weight": (3 * width, width),
            f"{block}self_attn.o_proj.weight": (width, width),
            f"{block}post_attention_layernorm.weight": (width,),
            f"{block}mlp.gate_proj.weight": (hidden, width),
            f"{block}mlp.up_proj.weight": (hidden, width),
            f"{block}mlp.down_proj.weight": (width, hidden),
        }
    return shapes


def _logits(
    weights: Mapping[str, Floats], config: Mapping[str, Any], ids: Sequence[int], num_prompt: int
) -> Floats:
    heads, epsilon = config["num_attention_heads"], config["rms_norm_eps"]
    head_dim = config["hidden_size"] // heads
    positions = np.arange(len(ids))
    has_alibi = "max_position_embeddings" not in config
    distances = positions[None, :] - positions[:, None]
    bias = alibi_slopes(heads)[:, None, None] * distances if has_alibi else None
    angles = np.outer(positions, 10_000.0 ** (-np.arange(0, head_dim, 2) / head_dim))
    x = weights["model.embed_tokens.weight"][list(ids)]
    for layer in range(config["num_hidden_layers"]):
        w = {
            name.split(".")[-2]: value
            for name, value in weights.items()
            if name.startswith(f"model.layers.{layer}.")
        }
        h = linear(rms_norm(x, w["input_layernorm"], epsilon), w["W_pack"])
        q, k, v = (split_heads(part, heads) for part in np.split(h, 3, axis=-1))
        if not has_alibi:
            q, k = rotate(q, angles), rotate(k, angles)
        x = x + linear(attend(q, k, v, bias=bias), w["o_proj"])
        h = rms_norm(x, w["post_attention_layernorm"], epsilon)
        x = x + linear(silu(linear(h, w["gate_proj"])) * linear(h, w["up_proj"]), w["down_proj"])
    head = weights["lm_head.weight"]
    if "z_loss_weight" in config:
        head = head / np.linalg.norm(head, axis=1, keepdims=True)
    return linear(rms_norm(x, weights["model.norm.weight"], epsilon), head)


_CONFIG_7B = {"max_position_embeddings": 64}

case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={
        "model_type": "baichuan",
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,  # no power of two, as the 13B models' 40
        "rms_norm_eps": 1e-6,
        "model_max_length": 64,
        "tie_word_embeddings": False,
    },
    variants={
        "7B": _CONFIG_7B,
        "13B": {},
        "Baichuan 2 7B": {**_CONFIG_7B, "z_loss_weight": 0},
        "Baichuan 2 13B": {"z_loss_weight": 0},
    },
    ablations={
        "13B: rotary": lambda spec: change_attention(spec, positions=Rotary(8)),
        "Baichuan 2 7B: plain head": lambda spec: change_head(spec, is_normalised=False),
    },
)
