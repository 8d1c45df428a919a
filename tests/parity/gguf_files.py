"""Tiny GGUF files of every architecture, the same on every machine: random numbers by NumPy.

`tests/parity/data/make_llama_cpp.py` asks llama.cpp about them; the tests ask us.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yearling.models.checkpoint.assembly import plan_tensors
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.gguf_writer import write_gguf
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.places import gguf_places
from yearling.models.weights import Weight, weights_of

__all__ = ["GGUF_CASES", "PROMPTS", "VOCABULARY", "write_case"]

VOCABULARY = 97
PROMPTS = ([5, 71, 3], [int(i) for i in np.random.default_rng(1).integers(3, VOCABULARY, 40)])


@dataclass(frozen=True)
class GgufCase:
    """One tiny file.

    Attributes:
        family: Whose it is.
        config: What its config.json would say.
    """

    family: str
    config: Mapping[str, Any]


_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_BAICHUAN = _LLAMA | {"num_attention_heads": 8, "num_key_value_heads": 8, "rms_norm_eps": 1e-6}
_QWEN = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 192,
    "kv_channels": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "use_dynamic_ntk": False,
    "use_logn_attn": False,
}
_FALCON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}

GGUF_CASES: Mapping[str, GgufCase] = {
    "llama": GgufCase("llama", _LLAMA),
    "mistral": GgufCase("mistral", _LLAMA | {"sliding_window": None}),
    "mixtral": GgufCase("mixtral", _LLAMA | {"num_local_experts": 3, "num_experts_per_tok": 2}),
    "qwen": GgufCase("qwen", _QWEN),
    "qwen2": GgufCase("qwen2", _LLAMA),
    "qwen3": GgufCase("qwen3", _LLAMA | {"head_dim": 32}),
    # llama.cpp tells the two by their layers: 32 rotate, 40 have ALiBi.
    "baichuan-7b": GgufCase("baichuan", _BAICHUAN | {"num_hidden_layers": 32}),
    "baichuan-13b": GgufCase(
        "baichuan",
        _BAICHUAN
        | {"num_hidden_layers": 40, "max_position_embeddings": None, "model_max_length": 64},
    ),
    "internlm": GgufCase("internlm", _LLAMA),
    "skywork": GgufCase("skywork", _LLAMA),
    "internlm2": GgufCase("internlm2", _LLAMA | {"bias": False}),
    "stablelm": GgufCase("stablelm", _LLAMA),
    "phi": GgufCase("phi", _LLAMA | {"num_key_value_heads": 4}),
    "gemma": GgufCase("gemma", _LLAMA | {"head_dim": 16}),
    "gemma2": GgufCase(
        "gemma2", _LLAMA | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8}
    ),
    "gemma3": GgufCase(
        "gemma3",
        _LLAMA
        | {
            "head_dim": 32,
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 32,
            "sliding_window": 8,
        },
    ),
    "falcon": GgufCase(
        "falcon",
        _FALCON | {"num_kv_heads": 2, "new_decoder_architecture": True},
    ),
    "falcon-7b": GgufCase("falcon", _FALCON),
    "gpt_neox": GgufCase("gpt_neox", _LLAMA | {"num_key_value_heads": None, "rotary_pct": 0.25}),
    "gpt_neox-serial": GgufCase(
        "gpt_neox", _LLAMA | {"num_key_value_heads": None, "use_parallel_residual": False}
    ),
    "chatglm2": GgufCase(
        "chatglm",
        {
            "padded_vocab_size": VOCABULARY,
            "hidden_size": 64,
            "ffn_hidden_size": 96,
            "num_layers": 3,
            "num_attention_heads": 4,
            "kv_channels": 16,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
            "add_qkv_bias": True,
            "layernorm_epsilon": 1e-5,
            "seq_length": 64,
        },
    ),
    "gpt2": GgufCase(
        "gpt2",
        {"vocab_size": VOCABULARY, "n_embd": 64, "n_head": 4, "n_layer": 3, "n_positions": 64},
    ),
    "mpt": GgufCase(
        "mpt",
        {
            "vocab_size": VOCABULARY,
            "d_model": 64,
            "n_heads": 4,
            "n_layers": 3,
            "max_seq_len": 64,
            "attn_config": {"clip_qkv": 0.75},
        },
    ),
    "mamba": GgufCase(
        "mamba",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 32,
            "state_size": 8,
            "num_hidden_layers": 2,
            "time_step_rank": 4,
        },
    ),
}


def write_case(path: Path, case: GgufCase) -> None:
    """Write the file of a case."""
    family = families.get(case.family)
    spec = family.spec_from_config(Fields(case.config, case.family))
    random = np.random.default_rng(7)
    values = {weight: _random(weight, random) for weight in weights_of(spec)}
    tensors = plan_tensors(
        gguf_places(spec, family), lambda _: "F32", lambda weight, _: values[weight]
    )
    assert family.gguf_from_spec is not None, "a family of GGUF is written"
    write_gguf(path, {**family.gguf_from_spec(spec), **_TOKENIZER}, tensors)


def _random(weight: Weight, random: np.random.Generator) -> StoredTensor:
    values = random.standard_normal(weight.shape, np.float32) * np.float32(0.1)
    if weight.role.endswith("norm") and weight.part == "weight":
        values += np.float32(1)
    return StoredTensor("F32", weight.shape, values.view(np.uint8).reshape(-1))


_CHARACTERS = [chr(code) for code in range(33, 33 + VOCABULARY - 4)]
_TOKENIZER: Mapping[str, Any] = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": ["<|end|>", *_CHARACTERS, "Ġ", "Ċ", "ab"],
    "tokenizer.ggml.token_type": np.array([3] + [1] * (VOCABULARY - 1), np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
}
