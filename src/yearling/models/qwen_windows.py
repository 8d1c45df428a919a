"""Sliding windows as Qwen 2 and Qwen 3 state them: off, or in the layers from some number on."""

from dataclasses import replace

from yearling.models.fields import Fields
from yearling.models.llama_like import LLAMA_KEYS, change_attention, windows_from_config
from yearling.models.spec import ModelSpec

__all__ = ["QWEN_KEYS", "with_qwen_windows"]

QWEN_KEYS = LLAMA_KEYS | {
    "layer_types",
    "max_window_layers",
    "sliding_window",
    "use_mrope",
    "use_sliding_window",
}
"""Keys of config.json that both share beyond LLaMA's."""


def with_qwen_windows(config: Fields, spec: ModelSpec) -> ModelSpec:
    """Give the layers that a window is switched on for this window.

    Raises:
        ModelFormatError: a value is missing or out of range.
    """
    if config.flag("use_mrope", False):
        raise config.error("use_mrope", "is of Qwen's vision models, which are not read")
    if not config.flag("use_sliding_window", False):
        return spec
    window = config.integer("sliding_window", 4_096, minimum=1)
    windows = windows_from_config(config, len(spec.layers), window)
    if "layer_types" not in config:
        first = config.integer("max_window_layers", 28)
        windows = [window if layer >= first else None for layer in range(len(spec.layers))]
    return change_attention(
        spec, lambda layer, mixer: replace(mixer, window=windows[layer]), config.label
    )
