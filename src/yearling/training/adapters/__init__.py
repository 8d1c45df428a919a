"""Adapters: one file each; the file's stem is the word in YAML.

An adapter changes a decoder in place: it freezes the base, adds what is trained, and says how that
is saved so that PEFT reads it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from yearling.core.config import Config
from yearling.core.registry import Registry
from yearling.models.torch_decoder import TorchDecoder

__all__ = ["AdapterKind", "adapters"]

AdapterConfig = TypeVar("AdapterConfig", bound=Config)


@dataclass(frozen=True)
class AdapterKind(Generic[AdapterConfig]):
    """A kind of adapter as the registry holds it.

    Attributes:
        summary: One sentence.
        source: Paper.
        config: Its options.
        attach: Puts a new adapter into a decoder: afterwards only what it added has
            `requires_grad`. Raises ConfigError when a target matches no module, naming what there
            is. The seed decides its first values.
        save: Writes the adapter of a decoder to a folder in PEFT's format: adapter_config.json
            with the base's name, and adapter_model.safetensors.
        load: Puts a saved adapter's values into a decoder it was attached to.
        merge: Adds it to the base's weights and takes it out; raises UnsupportedError where that
            cannot be done.
        disabled: Context in which the decoder computes without it.
    """

    summary: str
    source: str
    config: type[AdapterConfig]
    attach: Callable[[TorchDecoder, AdapterConfig, int], None]
    save: Callable[[TorchDecoder, AdapterConfig, Path, str], None]
    load: Callable[[TorchDecoder, Path], None]
    merge: Callable[[TorchDecoder], None]
    disabled: Callable[[TorchDecoder], Any]


adapters: Registry[AdapterKind[Any]] = Registry(
    "adapter", "yearling.training.adapters", "yearling.adapters"
)
