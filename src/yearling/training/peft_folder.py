"""Folders of adapters as PEFT writes them: adapter_config.json and adapter_model.safetensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from yearling.core.errors import ModelFormatError, ModelNotFoundError
from yearling.models.checkpoint.planned import new_file
from yearling.models.json_file import read_json_object

__all__ = ["MODEL_PREFIX", "PeftFolder", "read_peft_folder", "write_peft_folder"]

MODEL_PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MAX_CONFIG_BYTES = 1 << 20


@dataclass(frozen=True, eq=False)
class PeftFolder:
    """What a folder holds.

    Attributes:
        path: Where it is.
        settings: adapter_config.json.
        tensors: By PEFT's names.
    """

    path: Path
    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def base(self) -> str | None:
        """Name of the model that the adapter is for, if the folder says it."""
        return self.settings.get("base_model_name_or_path") or None

    def refuse_settings(self, *known: str) -> None:
        """Refuse settings beyond the known ones that are not off.

        Raises:
            ModelFormatError: a setting would change what is computed.
        """
        inert: tuple[Any, ...] = (None, False, "", "none", [], {}, "NONE")
        wrong = {
            key: value
            for key, value in self.settings.items()
            if key not in (*known, *_DESCRIPTIONS) and value not in inert
        }
        if wrong:
            shown = ", ".join(f"{key}={value!r}" for key, value in sorted(wrong.items()))
            raise ModelFormatError(
                f"{self.path / _CONFIG}: {shown} is not read here. Merge the adapter with PEFT, "
                "or train it without."
            )


_DESCRIPTIONS = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "megatron_core"),
    *("peft_type", "peft_version", "revision", "runtime_config", "task_type"),
)
"""Settings that change nothing of what is computed."""


def write_peft_folder(
    folder: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write an adapter; each file appears whole or not at all, the settings last."""
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with new_file(folder / _WEIGHTS) as file:
        file.write(save(kept, metadata={"format": "pt"}))
    with new_file(folder / _CONFIG) as file:
        file.write((json.dumps(settings, indent=2, sort_keys=True) + "\n").encode())


def read_peft_folder(folder: Path) -> PeftFolder:
    """Read an adapter.

    Raises:
        ModelNotFoundError: a file is missing.
        ModelFormatError: a file is malformed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise ModelNotFoundError(
                f"{folder} holds no {name}, so it is no adapter in PEFT's format."
            )
    settings = read_json_object(folder / _CONFIG, _MAX_CONFIG_BYTES)
    try:
        tensors = load_file(folder / _WEIGHTS)
    except SafetensorError as error:
        raise ModelFormatError(f"{folder / _WEIGHTS} cannot be read: {error}.") from error
    return PeftFolder(folder, settings, tensors)
