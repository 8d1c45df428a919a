"""Models that serving systems are measured on: a real one, and one small enough to run for ever."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yearling.systems.request_lengths import LONGEST

if TYPE_CHECKING:
    from yearling.serving.model import LoadedExecutor

__all__ = [
    "REAL_LONGEST",
    "VOCABULARY",
    "RealModel",
    "random_prompt",
    "real_model",
    "reference",
    "tiny_executor",
]

REAL_LONGEST = 256
"""Tokens of the real model's longest request: ShareGPT's by 8, so that a run takes seconds."""

VOCABULARY = 256
"""Token ids of the tiny model."""

_REAL_CACHE_BYTES = 64 << 20

_TINY_CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 10_000.0,
    "max_position_embeddings": LONGEST,
    "tie_word_embeddings": False,
}
_TINY_SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, 32),
    "model.layers.0.input_layernorm.weight": (32,),
    "model.layers.0.self_attn.q_proj.weight": (32, 32),
    "model.layers.0.self_attn.k_proj.weight": (16, 32),
    "model.layers.0.self_attn.v_proj.weight": (16, 32),
    "model.layers.0.self_attn.o_proj.weight": (32, 32),
    "model.layers.0.post_attention_layernorm.weight": (32,),
    "model.layers.0.mlp.gate_proj.weight": (64, 32),
    "model.layers.0.mlp.up_proj.weight": (64, 32),
    "model.layers.0.mlp.down_proj.weight": (32, 64),
    "model.norm.weight": (32,),
    "lm_head.weight": (VOCABULARY, 32),
}


@dataclass(frozen=True)
class RealModel:
    """SmolLM2 in float32, and English text to cut prompts from.

    Attributes:
        path: Its GGUF file.
        executor: With 64 MiB for keys and values.
        text: Token ids.
    """

    path: Path
    executor: "LoadedExecutor"
    text: Sequence[int]

    def prompt(self, length: int, place: int) -> Sequence[int]:
        """Cut a prompt of a length out of the text, at a place that may be any number."""
        start = place % (len(self.text) - length)
        return self.text[start : start + length]


@cache
def real_model() -> RealModel:
    """Load the model once for all that is measured in this process."""
    from pydoc_data.topics import topics

    from yearling.models.store import ensure, resolve
    from yearling.serving.model import ModelOptions, load_executor, load_model

    ensure("smollm2")
    options = ModelOptions(
        weights="float32", kv_type="float32", cache_bytes=_REAL_CACHE_BYTES, context=REAL_LONGEST
    )
    model = load_model("smollm2", options)
    assert model.tokenizer is not None, "the embedded model has a tokenizer"
    text = model.tokenizer.encode("\n".join(topics.values())[:200_000])
    return RealModel(resolve("smollm2"), load_executor(model), text)


@cache
def reference() -> Any:
    """Give the same weights in transformers, read by its own GGUF reader."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    path = real_model().path
    model = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    model.train(False)
    model.generation_config.eos_token_id = None  # answers of one length on both sides
    return model


def random_prompt(length: int, place: int) -> Sequence[int]:
    """Draw a prompt of the tiny model, from a random number."""
    import numpy as np

    return [int(token) for token in np.random.default_rng(place).integers(0, VOCABULARY, length)]


@contextmanager
def tiny_executor(folder: Path, *, cache_bytes: int, context: int) -> "Iterator[LoadedExecutor]":
    """Run a LLaMA of one small layer with random weights on the native core."""
    from yearling.serving.model import ModelOptions, load_executor, load_model

    options = ModelOptions(cache_bytes=cache_bytes, context=context, weights="float32")
    model = load_model(_tiny_model(folder), options)
    executor = load_executor(model)
    try:
        yield executor
    finally:
        executor.close()
        model.checkpoint.close()


def _tiny_model(folder: Path) -> Path:
    """Write the model as a Hugging Face folder, unless it is there."""
    import numpy as np
    from safetensors.numpy import save_file

    path = folder / "tiny"
    if path.exists():
        return path
    path.mkdir()
    random = np.random.default_rng(0)
    weights = {
        name: random.normal(1.0 if len(shape) == 1 else 0.0, 0.2, shape).astype(np.float32)
        for name, shape in _TINY_SHAPES.items()
    }
    save_file(weights, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(_TINY_CONFIG))
    return path
