"""Hugging Face folders of tiny random models whose memory does not grow with the sequence."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.checkpoint.safetensors_writer import write_safetensors
from yearling.models.families import family_of_model_type
from yearling.models.fields import Fields
from yearling.models.places import hugging_face_places

__all__ = ["CONFIGURATIONS", "CONTEXT", "VOCABULARY", "write_model"]

CONTEXT = 1 << 20
# Python keeps one object for each of these ids, so a list of tokens takes 8 bytes a token.
VOCABULARY = 256
_SPREAD = 0.05

CONFIGURATIONS: Mapping[str, Mapping[str, Any]] = {
    "mamba": {
        "model_type": "mamba",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "state_size": 16,
        "time_step_rank": 4,
    },
    "window": {
        "model_type": "mistral",
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": CONTEXT,
        "sliding_window": 256,
    },
}
"""The state-space model, and a decoder whose layers all see a window."""


def write_model(folder: Path, config: Mapping[str, Any], seed: int = 0) -> None:
    """Write config.json and random weights; norms begin at one, as they do in training."""
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    family = family_of_model_type(config["model_type"])
    spec = family.spec_from_config(Fields(config, "config.json"))
    places = hugging_face_places(spec, family.names(spec))
    shapes = {place.name: place.shape for place in places.values()}
    random = np.random.default_rng(seed)
    planned = [
        PlannedTensor(name, "F32", shape, partial(_random_tensor, random, name, shape))
        for name, shape in shapes.items()
    ]
    write_safetensors(folder, planned)


def _random_tensor(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> StoredTensor:
    values = random.normal(1.0 if "norm" in name else 0.0, _SPREAD, shape).astype(np.float32)
    return StoredTensor("F32", shape, values.reshape(-1).view(np.uint8))
