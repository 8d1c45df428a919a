"""Longer contexts: the same weights with other rotary positions, to be tuned a little afterwards.

Give the spec that comes out to `load_torch_decoder(checkpoint, spec=…)`. `linear` is the most
robust after tuning; `yarn` and `ntk` need the least of it; `base` is what long pretraining uses;
`power` and `truncated` are Giraffe's.

Sources: linear, Chen et al. 2023, arXiv:2306.15595; base, Xiong et al. 2023 (Llama 2 Long),
arXiv:2309.16039; yarn and ntk, Peng et al. 2023, arXiv:2309.00071; power and truncated, Pal et
al. 2023 (Giraffe), arXiv:2308.10882.
"""

from dataclasses import replace
from typing import Literal

from pydantic import Field

from yearling.core.config import Config
from yearling.core.errors import ConfigError, UnsupportedError
from yearling.models.spec import Attention, LayerSpec, ModelSpec, Rotary, RotaryScaling

__all__ = ["ContextConfig", "extend_context"]


class ContextConfig(Config):
    """How a model's positions are stretched."""

    tokens: int = Field(ge=2, description="Longest sequence afterwards, in tokens.")
    method: Literal["linear", "ntk", "base", "yarn", "power", "truncated"] = Field(
        default="linear", description="Which change of the rotary frequencies."
    )
    base: float = Field(
        default=500_000.0,
        gt=0,
        description="Frequency base, with method base; 500000 in Llama 2 Long.",
    )
    exponent: float = Field(
        default=0.1, gt=0, description="Exponent of the power basis, with method power."
    )


def extend_context(spec: ModelSpec, config: ContextConfig) -> ModelSpec:
    """Give the spec of the same model with stretched positions.

    Layers with a window keep theirs where others see everything, as in Gemma 3.

    Raises:
        ConfigError: the context would not grow, or is stretched already.
        UnsupportedError: the model has no plain rotary positions.
    """
    if config.tokens <= spec.context and config.method not in ("power", "truncated"):
        raise ConfigError(
            f"context.tokens={config.tokens} is no more than the {spec.context} that the model "
            "has already."
        )
    rotaries = [_rotary_of(layer) for layer in spec.layers]
    if spec.embedding.positions is not None or not any(rotaries):
        raise UnsupportedError(
            f"models of family {spec.family} have no rotary positions alone, so none are stretched."
        )
    is_global = [
        rotary is not None and layer.mixer.window is None  # type: ignore[union-attr]
        for rotary, layer in zip(rotaries, spec.layers, strict=True)
    ]
    chosen = is_global if any(is_global) else [rotary is not None for rotary in rotaries]
    layers = tuple(
        _stretched(layer, spec.context, config) if is_chosen else layer
        for layer, is_chosen in zip(spec.layers, chosen, strict=True)
    )
    return replace(spec, layers=layers, context=config.tokens)


def _rotary_of(layer: LayerSpec) -> Rotary | None:
    mixer = layer.mixer
    is_rotary = isinstance(mixer, Attention) and isinstance(mixer.positions, Rotary)
    return mixer.positions if is_rotary else None  # type: ignore[union-attr, return-value]


def _stretched(layer: LayerSpec, trained: int, config: ContextConfig) -> LayerSpec:
    assert isinstance(layer.mixer, Attention)
    rotary = layer.mixer.positions
    assert isinstance(rotary, Rotary)
    if rotary.scaling is not None or rotary.layout == "two_dimensional":
        raise ConfigError(
            f"the model's positions are {rotary.layout}, scaling {rotary.scaling}; only plain ones "
            "are stretched. Begin from the model before it was."
        )
    return replace(layer, mixer=replace(layer.mixer, positions=_changed(rotary, trained, config)))


def _changed(rotary: Rotary, trained: int, config: ContextConfig) -> Rotary:
    factor = config.tokens / trained
    match config.method:
        case "linear":
            return replace(rotary, scaling=RotaryScaling("linear", factor))
        case "ntk":  # a change of the base, which every format has a place for
            grown = factor ** (rotary.dims / (rotary.dims - 2))
            return replace(rotary, base=rotary.base * grown)
        case "base":
            return replace(rotary, base=config.base)
        case "yarn":
            scaling = RotaryScaling("yarn", factor, trained, low_frequency=1, high_frequency=32)
            return replace(rotary, scaling=scaling)
        case "power":
            return replace(rotary, scaling=RotaryScaling("power", exponent=config.exponent))
        case "truncated":
            scaling = RotaryScaling(
                "truncated", 16.0, trained, low_frequency=1 / 8, high_frequency=1.0
            )
            return replace(rotary, scaling=scaling)
