"""Adapter folders of random values, as PEFT writes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

__all__ = ["write_adapter"]

PREFIX = "base_model.model."


def write_adapter(
    folder: Path,
    modules: Mapping[str, tuple[int, int]],
    *,
    rank: int = 4,
    seed: int = 0,
    size: float = 0.1,
    settings: Mapping[str, Any] | None = None,
    tensors: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Write an adapter.

    Args:
        modules: (outputs, inputs) by name.
        size: Standard deviation of the second matrices.
        settings: Changes of adapter_config.json.
        tensors: Added or replaced, by their whole names.
    """
    random = np.random.default_rng(seed)
    stored: dict[str, np.ndarray] = {}
    for name, (outputs, inputs) in modules.items():
        first = random.normal(0, inputs**-0.5, (rank, inputs))
        stored[f"{PREFIX}{name}.lora_A.weight"] = first.astype(np.float32)
        second = random.normal(0, size, (outputs, rank))
        stored[f"{PREFIX}{name}.lora_B.weight"] = second.astype(np.float32)
    folder.mkdir(parents=True)
    save_file({**stored, **(tensors or {})}, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, **(settings or {})}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
