"""InternLM 2: LLaMA's class, its three projections fused by group as published."""

from typing import Any

import numpy as np

from tests.parity.case import Case, change_rotary
from tests.parity.oracles import TransformersOracle, Weights

_NAMES = {
    "model.embed_tokens": "model.tok_embeddings",
    "lm_head": "output",
    "input_layernorm": "attention_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.o_proj": "attention.wo",
    "mlp.gate_proj": "feed_forward.w1",
    "mlp.down_proj": "feed_forward.w2",
    "mlp.up_proj": "feed_forward.w3",
}


def _as_internlm2(config: dict[str, Any], weights: Weights) -> tuple[dict[str, Any], Weights]:
    """Rename, and put each key head's queries, key and value below each other."""
    del config["mlp_bias"]
    config |= {"model_type": "internlm2", "bias": config.pop("attention_bias")}
    result = {}
    groups = config["num_key_value_heads"]
    for name, values in weights.items():
        if ".q_proj" in name:
            key, value = (weights[name.replace("q_proj", f"{x}_proj")] for x in "kv")
            parts = [part.reshape(groups, -1, part.shape[-1]) for part in (values, key, value)]
            fused = np.concatenate(parts, axis=1).reshape(-1, values.shape[-1])
            result[name.replace("self_attn.q_proj", "attention.wqkv")] = fused
        elif ".k_proj" not in name and ".v_proj" not in name:
            for theirs, ours in _NAMES.items():
                name = name.replace(theirs, ours)
            result[name] = values
    return config, result


case = Case(
    oracle=TransformersOracle("LlamaForCausalLM", rewrite=_as_internlm2),
    config={
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    },
    variants={"plain": {}},
    ablations={"other base": lambda spec: change_rotary(spec, base=1e3)},
)
