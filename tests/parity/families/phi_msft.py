"""Phi as first published: transformers' class, renamed and fused as the first files were."""

from typing import Any

import numpy as np

from tests.parity.case import Case, change_rotary
from tests.parity.families.phi import case as phi
from tests.parity.oracles import TransformersOracle, Weights

_NAMES = {
    "model.embed_tokens": "transformer.embd.wte",
    "model.layers": "transformer.h",
    "model.final_layernorm": "lm_head.ln",
    "self_attn.dense": "mixer.out_proj",
    "input_layernorm": "ln",
}


def _as_first_published(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    result = {}
    for name, values in weights.items():
        if ".q_proj" in name:
            others = [weights[name.replace("q_proj", f"{x}_proj")] for x in "kv"]
            fused = np.concatenate([values, *others])
            result[name.replace("self_attn.q_proj", "mixer.Wqkv")] = fused
        elif ".k_proj" not in name and ".v_proj" not in name:
            if name.startswith("lm_head."):
                name = name.replace("lm_head.", "lm_head.linear.")
            result[name] = values
    for old, new in _NAMES.items():
        result = {name.replace(old, new): values for name, values in result.items()}
    return {
        "model_type": "phi-msft",
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config["layer_norm_eps"],
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_head_kv": None,
        "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": config["max_position_embeddings"],
        "rotary_dim": 8,
        "tie_word_embeddings": False,
        "vocab_size": config["vocab_size"],
    }, result


case = Case(
    oracle=TransformersOracle("PhiForCausalLM", rewrite=_as_first_published),
    config=phi.config,
    variants={"half rotated": {}},
    ablations={"whole heads rotated": lambda spec: change_rotary(spec, dims=16)},
)
