"""Qwen 1 by its definition: fused biased projections, stepped dynamic NTK, log-n."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.golden import Floats, attend, linear, rms_norm, rotate, silu, split_heads
from tests.parity.oracles import GoldenOracle


def _shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    width, vocabulary = config["hidden_size"], config["vocab_size"]
    hidden, inner = config["intermediate_size"] // 2, config["kv_channels"]
    inner *= config["num_attention_heads"]
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (vocabulary, width),
        "transformer.ln_f.weight": (width,),
        "lm_head.weight": (vocabulary, width),
    }
    for layer in range(config["num_hidden_layers"]):
        block = f"transformer.h.{layer}."
        shapes |= {
            f"{block}ln_1.weight": (width,),
            f"{block}attn.c_attn.weight": (3 * inner, width),
            f"{block}attn.c_attn.bias": (3 * inner,),
            f"{block}attn.c_proj.weight": (width, inner),
            f"{block}ln_2.weight": (width,),
            f"{block}mlp.w1.weight": (hidden, width),
            f"{block}mlp.w2.weight": (hidden, width),
            f"{block}mlp.c_proj.weight": (width, hidden),
        }
    return shapes


def _angles(config: Mapping[str, Any], num_tokens: int, num_prompt: int) -> Floats:
    """Angles of each token, by the length of the sequence when it was computed."""
    dims, trained = config["kv_channels"], config["seq_length"]
    rows = []
    for position in range(num_tokens):
        base, length = config["rotary_emb_base"], max(num_prompt, position + 1)
        if config["use_dynamic_ntk"]:
            alpha = 2 ** math.ceil(math.log2(length / trained) + 1) - 1
            base *= max(alpha, 1) ** (dims / (dims - 2))
        rows.append(position * base ** (-np.arange(0, dims, 2) / dims))
    return np.array(rows)


def _logits(
    weights: Mapping[str, Floats], config: Mapping[str, Any], ids: Sequence[int], num_prompt: int
) -> Floats:
    heads, epsilon = config["num_attention_heads"], config["layer_norm_epsilon"]
    angles = _angles(config, len(ids), num_prompt)
    logn = np.ones(len(ids))
    if config["use_logn_attn"]:
        logn = np.maximum(1, np.log(np.arange(1, len(ids) + 1)) / np.log(config["seq_length"]))
    x = weights["transformer.wte.weight"][list(ids)]
    for layer in range(config["num_hidden_layers"]):
        start = f"transformer.h.{layer}."
        w = {n.removeprefix(start): v for n, v in weights.items() if n.startswith(start)}
        h = rms_norm(x, w["ln_1.weight"], epsilon)
        h = linear(h, w["attn.c_attn.weight"], w["attn.c_attn.bias"])
        q, k, v = (split_heads(part, heads) for part in np.split(h, 3, axis=-1))
        q, k = rotate(q, angles) * logn[:, None], rotate(k, angles)
        x = x + linear(attend(q, k, v), w["attn.c_proj.weight"])
        h = rms_norm(x, w["ln_2.weight"], epsilon)
        h = linear(h, w["mlp.w1.weight"]) * silu(linear(h, w["mlp.w2.weight"]))
        x = x + linear(h, w["mlp.c_proj.weight"])
    x = rms_norm(x, weights["transformer.ln_f.weight"], epsilon)
    return linear(x, weights["lm_head.weight"])


case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={
        "model_type": "qwen",
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "kv_channels": 8,
        "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10_000,
        "rotary_pct": 1.0,
        "no_bias": True,
        "seq_length": 16,
        "max_position_embeddings": 64,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "tie_word_embeddings": False,
    },
    variants={
        "NTK and log-n": {},
        "neither (72B)": {"use_dynamic_ntk": False, "use_logn_attn": False},
    },
    ablations={
        "no NTK": lambda spec: change_rotary(spec, scaling=None),
        "no log-n": lambda spec: change_attention(spec, log_scale=None),
        "no bias": lambda spec: change_attention(spec, has_qkv_bias=False),
    },
)
