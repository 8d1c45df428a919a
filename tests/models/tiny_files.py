"""Tiny model files, written byte by byte, so that tests can also write wrong ones."""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from yearling.models.checkpoint import Checkpoint
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.weights import Role, weights_of

ALIGNMENT = 32
KINDS = {"u8": 0, "i32": 5, "u32": 4, "f32": 6, "bool": 7, "string": 8, "array": 9, "u64": 10}
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8}


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def u64(value: int) -> bytes:
    return struct.pack("<Q", value)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return u64(len(raw)) + raw


def pair(key: str | bytes, kind: int, payload: bytes) -> bytes:
    """One metadata pair, whatever its parts are."""
    return text(key) + u32(kind) + payload


def value_pair(key: str, value: int | float | bool | str | Sequence[str | int]) -> bytes:
    """One metadata pair of the kind that a Python value suggests."""
    match value:
        case bool():
            return pair(key, KINDS["bool"], bytes([value]))
        case int():
            return pair(key, KINDS["u32"], u32(value))
        case float():
            return pair(key, KINDS["f32"], struct.pack("<f", value))
        case str():
            return pair(key, KINDS["string"], text(value))
    is_text = bool(value) and isinstance(value[0], str)
    items = b"".join(text(str(v)) if is_text else struct.pack("<i", v) for v in value)
    kind = KINDS["string"] if is_text else KINDS["i32"]
    return pair(key, KINDS["array"], u32(kind) + u64(len(value)) + items)


@dataclass(frozen=True)
class TinyTensor:
    """A tensor to write; `axes` fastest first, as GGUF has them."""

    name: str
    axes: tuple[int, ...]
    data: bytes
    type: int = TYPES["F32"]


def tensor_entry(name: str, axes: Sequence[int], type_: int, offset: int) -> bytes:
    return text(name) + u32(len(axes)) + b"".join(map(u64, axes)) + u32(type_) + u64(offset)


def pad(data: bytes, alignment: int = ALIGNMENT) -> bytes:
    return data + bytes(-len(data) % alignment)


def gguf_bytes(
    pairs: Sequence[bytes],
    tensors: Sequence[TinyTensor] = (),
    *,
    entries: Sequence[bytes] | None = None,
    start: bytes = b"GGUF" + u32(3),
) -> bytes:
    """A whole file; `entries` replaces the descriptions that the tensors would have."""
    made, data = [], b""
    for tensor in tensors:
        made.append(tensor_entry(tensor.name, tensor.axes, tensor.type, len(data)))
        data += pad(tensor.data)
    entries = made if entries is None else entries
    header = start + u64(len(entries)) + u64(len(pairs)) + b"".join(pairs) + b"".join(entries)
    return pad(header) + data


def from_numpy(name: str, values: NDArray[np.float32]) -> TinyTensor:
    return TinyTensor(name, values.shape[::-1], values.astype("<f4").tobytes())


METADATA: Mapping[str, int | float | bool | str | Sequence[str | int]] = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.freq_base": 10_000.0,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": ["<|end|>", "a", "b", "ab"],
    "tokenizer.ggml.token_type": [3, 1, 1, 1],
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
    "tokenizer.chat_template": "{{ messages[0].content }}",
}
"""A LLaMA of one layer: width 32, 4 heads of 8, 2 key heads, 4 tokens."""

_SHAPES = {
    "token_embd.weight": (4, 32),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.ffn_gate.weight": (64, 32),
    "blk.0.ffn_up.weight": (64, 32),
    "blk.0.ffn_down.weight": (32, 64),
    "output_norm.weight": (32,),
}


def tiny_tensors() -> dict[str, TinyTensor]:
    """Tensors of `METADATA`'s model: random, F32."""
    random = np.random.default_rng(7)
    return {
        name: from_numpy(name, random.standard_normal(shape, np.float32))
        for name, shape in _SHAPES.items()
    }


def tiny_gguf(
    changes: Mapping[str, int | float | bool | str | Sequence[str | int] | None] | None = None,
    *extra: TinyTensor,
    without: Sequence[str] = (),
) -> bytes:
    """The tiny model's file with metadata changed (None removes) and tensors added or replaced."""
    metadata = {key: v for key, v in {**METADATA, **(changes or {})}.items() if v is not None}
    tensors = tiny_tensors() | {tensor.name: tensor for tensor in extra}
    kept = [tensor for name, tensor in tensors.items() if name not in without]
    return gguf_bytes([value_pair(key, value) for key, value in metadata.items()], kept)


CONFIG: Mapping[str, object] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "vocab_size": 4,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
"""config.json of the same model."""

_LAYER = "model.layers.0."
CANONICAL_SHAPES = {
    "model.embed_tokens.weight": (4, 32),
    _LAYER + "input_layernorm.weight": (32,),
    _LAYER + "self_attn.q_proj.weight": (32, 32),
    _LAYER + "self_attn.k_proj.weight": (16, 32),
    _LAYER + "self_attn.v_proj.weight": (16, 32),
    _LAYER + "self_attn.o_proj.weight": (32, 32),
    _LAYER + "post_attention_layernorm.weight": (32,),
    _LAYER + "mlp.gate_proj.weight": (64, 32),
    _LAYER + "mlp.up_proj.weight": (64, 32),
    _LAYER + "mlp.down_proj.weight": (32, 64),
    "model.norm.weight": (32,),
}


def stored(
    checkpoint: Checkpoint, role: Role, layer: int | None = None, part: str = "weight"
) -> StoredTensor:
    """The one weight of a checkpoint with this role, layer and part."""
    (found,) = (
        weight
        for weight in weights_of(checkpoint.spec)
        if (weight.role, weight.layer, weight.part) == (role, layer, part)
    )
    return checkpoint.weight(found)


def safetensors_bytes(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A safetensors file; a header that is not bytes is written as JSON."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return u64(len(raw) if length is None else length) + raw + data


def tiny_safetensors(shapes: Mapping[str, tuple[int, ...]] = CANONICAL_SHAPES) -> bytes:
    """F32 tensors of the given shapes, random."""
    random, header, data = np.random.default_rng(7), {}, b""
    for name, shape in shapes.items():
        values = random.standard_normal(shape, np.float32).astype("<f4").tobytes()
        offsets = [len(data), len(data) + len(values)]
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": offsets}
        data += values
    return safetensors_bytes(header, data)


def write_folder(folder: Path, files: Mapping[str, bytes | object] | None = None) -> Path:
    """Write the tiny model as a Hugging Face folder; `files` adds, replaces, or (None) removes."""
    contents = {"config.json": CONFIG, "model.safetensors": tiny_safetensors(), **(files or {})}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if content is not None:
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            (folder / name).write_bytes(raw)
    return folder
