"""Tiny GGUF files of every architecture, the same on every machine: random numbers by NumPy.

`tests/parity/data/make_llama_cpp.py` asks llama.cpp about them; the tests ask us.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yearling.models.checkpoint.assembly import plan_tensors
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.gguf_writer import write_gguf
from yearling.models.families import families
from yearling.models.fields import Fields
from yearling.models.places import gguf_places
from yearling.models.spec import Attention, Experts, ModelSpec, Rotary
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
        architecture: As GGUF calls it, where that is not the family's name.
        settings: Keys under the architecture's name that only this one has; None leaves one out.
    """

    family: str
    config: Mapping[str, Any]
    architecture: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)


_LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
_EXPERTS = {"num_local_experts": 3, "num_experts_per_tok": 2}
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

GGUF_CASES: Mapping[str, GgufCase] = {
    "llama": GgufCase("llama", _LLAMA),
    "mixtral": GgufCase(
        "mixtral", _LLAMA | _EXPERTS, "llama", {"expert_count": 3, "expert_used_count": 2}
    ),
    "qwen": GgufCase("qwen", _QWEN, settings={"feed_forward_length": 192}),
    "qwen2": GgufCase("qwen2", _LLAMA),
    "qwen3": GgufCase("qwen3", _LLAMA | {"head_dim": 32}),
    # llama.cpp tells the two by their layers: 32 rotate, 40 have ALiBi.
    "baichuan-7b": GgufCase("baichuan", _BAICHUAN | {"num_hidden_layers": 32}),
    "baichuan-13b": GgufCase(
        "baichuan",
        _BAICHUAN
        | {"num_hidden_layers": 40, "max_position_embeddings": None, "model_max_length": 64},
        settings={"rope.dimension_count": 8},
    ),
    "internlm2": GgufCase("internlm2", _LLAMA | {"bias": False}),
    "stablelm": GgufCase("stablelm", _LLAMA, settings={"use_parallel_residual": True}),
    "phi": GgufCase("phi", _LLAMA | {"num_key_value_heads": 4}, "phi2"),
    "gemma": GgufCase("gemma", _LLAMA | {"head_dim": 16}),
    "gemma2": GgufCase(
        "gemma2",
        _LLAMA | {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 8},
        settings={
            "attention.sliding_window": 8,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
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
        # The base of global layers; that of the others is not stated.
        settings={"attention.sliding_window": 8, "rope.freq_base": 1e6},
    ),
    "falcon": GgufCase(
        "falcon",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_kv_heads": 2,
            "new_decoder_architecture": True,
            "max_position_embeddings": 64,
        },
        settings={"rope.dimension_count": None},
    ),
    "gpt_neox": GgufCase(
        "gpt_neox",
        _LLAMA | {"num_key_value_heads": None, "rotary_pct": 0.25},
        "gptneox",
        {"use_parallel_residual": True, "attention.head_count_kv": None},
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
        settings={"attention.head_count_kv": None},
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
        settings={"attention.max_alibi_bias": 8.0, "attention.clamp_kqv": 0.75},
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
        settings={
            "attention.head_count": 0,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
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
    architecture = case.architecture or case.family
    own = {**_settings(spec), **case.settings}
    metadata = {f"{architecture}.{key}": v for key, v in own.items() if v is not None}
    if family.gguf_from_spec is not None:
        metadata = family.gguf_from_spec(spec)
    write_gguf(path, {"general.architecture": architecture, **metadata, **_TOKENIZER}, tensors)


def _random(weight: Weight, random: np.random.Generator) -> StoredTensor:
    values = random.standard_normal(weight.shape, np.float32) * np.float32(0.1)
    if weight.role.endswith("norm") and weight.part == "weight":
        values += np.float32(1)
    return StoredTensor("F32", weight.shape, values.view(np.uint8).reshape(-1))


def _settings(spec: ModelSpec) -> dict[str, Any]:
    """What converters write for every architecture."""
    layer, norm = spec.layers[-1], spec.final_norm
    assert norm is not None
    mlp = layer.mlp.expert if isinstance(layer.mlp, Experts) else layer.mlp
    kind = "layer_norm_rms_epsilon" if norm.kind == "rms" else "layer_norm_epsilon"
    settings: dict[str, Any] = {
        "block_count": len(spec.layers),
        "context_length": spec.context,
        "embedding_length": spec.width,
        "feed_forward_length": 0 if mlp is None else mlp.hidden,
        f"attention.{kind}": norm.epsilon,
    }
    if not isinstance(layer.mixer, Attention):
        return settings
    settings |= {
        "attention.head_count": layer.mixer.heads,
        "attention.head_count_kv": layer.mixer.kv_heads,
    }
    if layer.mixer.head_dim * layer.mixer.heads != spec.width:
        settings["attention.key_length"] = layer.mixer.head_dim
        settings["attention.value_length"] = layer.mixer.head_dim
    if isinstance(layer.mixer.positions, Rotary):
        settings["rope.dimension_count"] = layer.mixer.positions.dims
        settings["rope.freq_base"] = layer.mixer.positions.base
    return settings


_CHARACTERS = [chr(code) for code in range(33, 33 + VOCABULARY - 4)]
_TOKENIZER = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "default",
    "tokenizer.ggml.tokens": ["<|end|>", *_CHARACTERS, "Ġ", "Ċ", "ab"],
    "tokenizer.ggml.token_type": np.array([3] + [1] * (VOCABULARY - 1), np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.ggml.add_bos_token": False,
}
