"""Who knows a tiny model's logits: transformers' own class, or a definition in plain NumPy."""

import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.parity.case import Logits

__all__ = ["GoldenOracle", "TransformersOracle", "Weights", "rewrite_folder"]

Weights = dict[str, NDArray[np.float32]]

_PERTURBATION = 0.1  # above the usual start values of 0.02, so that every part shows


@dataclass(frozen=True)
class TransformersOracle:
    """A class of transformers, prompt in one call and then token by token over its own cache.

    Attributes:
        model_class: For example `MistralForCausalLM`.
        settings: Keys of its configuration beyond the case's; `None` removes one of them.
        rewrite: Makes the folder that we read from the one it saves; see `rewrite_folder`.
        cache: What the class calls its cache.
    """

    model_class: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Callable[[dict[str, Any], Weights], tuple[dict[str, Any], Weights]] | None = None
    cache: str = "past_key_values"

    @property
    def name(self) -> str:
        """Shown in the report."""
        return f"transformers {self.model_class}"

    def make(self, folder: Path, config: Mapping[str, Any]) -> Logits:
        """Save a random model and answer with it."""
        import torch
        import transformers

        model_class = getattr(transformers, self.model_class)
        wanted = {key: v for key, v in {**config, **self.settings}.items() if v is not ...}
        torch.manual_seed(7)
        model = model_class(model_class.config_class(**wanted)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * _PERTURBATION)
        model.save_pretrained(folder)
        if self.rewrite is not None:
            rewrite_folder(folder, self.rewrite)

        def logits(ids: Sequence[int], num_prompt: int) -> NDArray[np.float32]:
            # Some rotary scalings remember the longest sequence: each one gets a fresh model.
            fresh, rows, past = deepcopy(model), [], None
            with torch.no_grad():
                for part in (ids[:num_prompt], *([token] for token in ids[num_prompt:])):
                    output = fresh(torch.tensor([list(part)]), **{self.cache: past}, use_cache=True)
                    past = output[self.cache]
                    rows.append(output.logits[0].float().numpy())
            return np.concatenate(rows)

        return logits


@dataclass(frozen=True)
class GoldenOracle:
    """The published definition, written out in NumPy.

    Attributes:
        shapes: Shape of each tensor of the published files, from the configuration.
        logits: Weights, configuration, ids and prompt length -> logits (T, V).
    """

    shapes: Callable[[Mapping[str, Any]], Mapping[str, tuple[int, ...]]]
    logits: Callable[[Weights, Mapping[str, Any], Sequence[int], int], NDArray[np.floating[Any]]]
    name: str = "definition in NumPy"

    def make(self, folder: Path, config: Mapping[str, Any]) -> Logits:
        """Write a random model and answer from the definition."""
        import safetensors.numpy

        random = np.random.default_rng(7)
        weights = {}
        for name, shape in self.shapes(config).items():
            values = random.standard_normal(shape, np.float32) * np.float32(_PERTURBATION)
            is_gain = name.endswith("norm.weight") or (len(shape) == 1 and name.endswith(".weight"))
            weights[name] = values + np.float32(1) if is_gain else values
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(dict(config)))
        safetensors.numpy.save_file(weights, folder / "model.safetensors")

        def logits(ids: Sequence[int], num_prompt: int) -> NDArray[np.float32]:
            exact = {name: value.astype(np.float64) for name, value in weights.items()}
            return self.logits(exact, config, ids, num_prompt).astype(np.float32)  # type: ignore[arg-type]

        return logits


def rewrite_folder(
    folder: Path,
    rewrite: Callable[[dict[str, Any], Weights], tuple[dict[str, Any], Weights]],
) -> None:
    """Give a saved model the settings and tensor names of another family of equal arithmetic."""
    import safetensors.numpy

    path = folder / "model.safetensors"
    config = json.loads((folder / "config.json").read_text())
    config, weights = rewrite(config, safetensors.numpy.load_file(path))
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()}, path
    )
