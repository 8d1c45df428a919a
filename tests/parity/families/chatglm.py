"""ChatGLM-6B's two positions and two-way prompt; ChatGLM2 and 3's grouped, half-turned heads."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tests.parity.case import Case, change_attention, change_rotary
from tests.parity.golden import (
    Floats,
    attend,
    gelu_tanh,
    layer_norm,
    linear,
    rms_norm,
    rotate,
    rotate_neighbours,
    silu,
    split_heads,
)
from tests.parity.oracles import GoldenOracle
from yearling.models.spec import ModelSpec, PostNorm

Config = Mapping[str, Any]
Weights = Mapping[str, Floats]


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return _second_shapes(config) if "padded_vocab_size" in config else _first_shapes(config)


def _logits(weights: Weights, config: Config, ids: Sequence[int], num_prompt: int) -> Floats:
    if "padded_vocab_size" in config:
        return _second_logits(weights, config, ids)
    return _first_logits(weights, config, ids, num_prompt)


def _first_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    width, hidden = config["hidden_size"], config["inner_hidden_size"]
    shapes = {
        "transformer.word_embeddings.weight": (config["vocab_size"], width),
        "lm_head.weight": (config["vocab_size"], width),
        "transformer.final_layernorm.weight": (width,),
        "transformer.final_layernorm.bias": (width,),
    }
    for layer in range(config["num_layers"]):
        modules = {
            "input_layernorm": (width,),
            "attention.query_key_value": (3 * width, width),
            "attention.dense": (width, width),
            "post_attention_layernorm": (width,),
            "mlp.dense_h_to_4h": (hidden, width),
            "mlp.dense_4h_to_h": (width, hidden),
        }
        for name, shape in modules.items():
            shapes[f"transformer.layers.{layer}.{name}.weight"] = shape
            shapes[f"transformer.layers.{layer}.{name}.bias"] = shape[:1]
    return shapes


def _first_logits(weights: Weights, config: Config, ids: Sequence[int], num_prompt: int) -> Floats:
    """The prompt ends with the token that starts the answer; what comes before sees itself."""
    heads, epsilon = config["num_attention_heads"], config["layernorm_epsilon"]
    alpha = (2 * config["num_layers"]) ** 0.5
    context = num_prompt - 1
    tokens = np.arange(len(ids))
    where = np.where(tokens < context, tokens, max(context - 1, 0))
    block = np.where(tokens < context, 0, tokens - context + 1)
    sees = (tokens[None] <= tokens[:, None]) | (tokens[None] < context)

    def module(name: str) -> tuple[Floats, Floats]:
        return weights[f"transformer.{name}.weight"], weights[f"transformer.{name}.bias"]

    def turned(x: Floats) -> Floats:
        half = x.shape[-1] // 2
        frequencies = 10_000.0 ** (-np.arange(0, half, 2) / half)
        parts = (x[..., :half], where), (x[..., half:], block)
        return np.concatenate([rotate(part, np.outer(at, frequencies)) for part, at in parts], -1)

    x = weights["transformer.word_embeddings.weight"][list(ids)]
    for layer in range(config["num_layers"]):
        at = f"layers.{layer}"
        h = layer_norm(x, *module(f"{at}.input_layernorm"), epsilon)
        fused = linear(h, *module(f"{at}.attention.query_key_value"))
        q, k, v = np.split(split_heads(fused, heads), 3, -1)
        mixed = attend(turned(q), turned(k), v, sees=sees)
        x = alpha * h + linear(mixed, *module(f"{at}.attention.dense"))
        h = layer_norm(x, *module(f"{at}.post_attention_layernorm"), epsilon)
        inner = gelu_tanh(linear(h, *module(f"{at}.mlp.dense_h_to_4h")))
        x = alpha * h + linear(inner, *module(f"{at}.mlp.dense_4h_to_h"))
    return linear(layer_norm(x, *module("final_layernorm"), epsilon), weights["lm_head.weight"])


def _second_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    width, hidden, size = config["hidden_size"], config["ffn_hidden_size"], config["kv_channels"]
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    vocabulary = config["padded_vocab_size"]
    shapes = {
        "transformer.embedding.word_embeddings.weight": (vocabulary, width),
        "transformer.output_layer.weight": (vocabulary, width),
        "transformer.encoder.final_layernorm.weight": (width,),
    }
    for layer in range(config["num_layers"]):
        at = f"transformer.encoder.layers.{layer}"
        shapes |= {
            f"{at}.input_layernorm.weight": (width,),
            f"{at}.self_attention.query_key_value.weight": ((heads + 2 * groups) * size, width),
            f"{at}.self_attention.query_key_value.bias": ((heads + 2 * groups) * size,),
            f"{at}.self_attention.dense.weight": (width, heads * size),
            f"{at}.post_attention_layernorm.weight": (width,),
            f"{at}.mlp.dense_h_to_4h.weight": (2 * hidden, width),
            f"{at}.mlp.dense_4h_to_h.weight": (width, hidden),
        }
    return shapes


def _second_logits(weights: Weights, config: Config, ids: Sequence[int]) -> Floats:
    heads, groups = config["num_attention_heads"], config["multi_query_group_num"]
    size, epsilon = config["kv_channels"], config["layernorm_epsilon"]
    base = 10_000.0 * config.get("rope_ratio", 1.0)
    frequencies = base ** (-np.arange(0, size // 2, 2) / (size // 2))
    angles = np.outer(np.arange(len(ids)), frequencies)
    x = weights["transformer.embedding.word_embeddings.weight"][list(ids)]
    for layer in range(config["num_layers"]):
        begin = f"transformer.encoder.layers.{layer}."
        w = {n.removeprefix(begin): value for n, value in weights.items() if n.startswith(begin)}
        h = rms_norm(x, w["input_layernorm.weight"], epsilon)
        name = "self_attention.query_key_value"
        fused = linear(h, w[f"{name}.weight"], w[f"{name}.bias"])
        q, k, v = np.split(fused, [heads * size, (heads + groups) * size], -1)
        mixed = attend(
            rotate_neighbours(split_heads(q, heads), angles),
            rotate_neighbours(split_heads(k, groups), angles),
            split_heads(v, groups),
        )
        x = x + linear(mixed, w["self_attention.dense.weight"])
        h = rms_norm(x, w["post_attention_layernorm.weight"], epsilon)
        gate, up = np.split(linear(h, w["mlp.dense_h_to_4h.weight"]), 2, -1)
        x = x + linear(silu(gate) * up, w["mlp.dense_4h_to_h.weight"])
    x = rms_norm(x, weights["transformer.encoder.final_layernorm.weight"], epsilon)
    return linear(x, weights["transformer.output_layer.weight"])


def _plain_residuals(spec: ModelSpec) -> ModelSpec:
    """Leave DeepNorm's factor out."""
    layers = []
    for layer in spec.layers:
        assert isinstance(layer.residual, PostNorm)
        layers.append(replace(layer, residual=replace(layer.residual, alpha=1.0)))
    return replace(spec, layers=tuple(layers))


_SECOND = {
    "model_type": "chatglm",
    "padded_vocab_size": 97,
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_layers": 2,
    "num_attention_heads": 4,
    "kv_channels": 8,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "add_qkv_bias": True,
    "layernorm_epsilon": 1e-5,
    "seq_length": 64,
}
case = Case(
    oracle=GoldenOracle(_shapes, _logits),
    config={},
    variants={
        "first": {
            "model_type": "chatglm",
            "vocab_size": 97,
            "hidden_size": 32,
            "inner_hidden_size": 48,
            "num_layers": 3,
            "num_attention_heads": 2,
            "layernorm_epsilon": 1e-5,
            "max_sequence_length": 64,
            "tie_word_embeddings": False,
        },
        "second": _SECOND,
        "third, long": {**_SECOND, "rope_ratio": 50.0, "num_layers": 3},
    },
    ablations={
        "first: causal prompt": lambda spec: change_attention(spec, mask="causal"),
        "first: one position": lambda spec: change_rotary(spec, layout="half"),
        "first: plain residuals": _plain_residuals,
        "second: halves turn together": lambda spec: change_rotary(spec, layout="half"),
    },
)
