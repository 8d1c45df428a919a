"""Longer contexts: the same weights with other rotary positions, to be tuned a little afterwards.

Give the spec that comes out to `load_torch_decoder(checkpoint, spec=…)`. `linear` is the most
robust after tuning; `yarn` and `ntk` need the least of it; `base` is what long pretraining uses;
`power` and `truncated` are Giraffe's.

Sources: linear, Chen et al. 2023, arXiv:2306.15595; base, Xiong et al. 2023 (Llama 2 Long),
arXiv:2309.16039; yarn and ntk, Peng et al. 2023, arXiv:2309.00071; power and truncated, Pal et
al. 2023 (Giraffe), arXiv:2308.10882.

A whole model says its positions in config.json. PEFT's format has no place for them, so an adapter
has `yearling_context.json` beside it, which merging reads.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from yearling.core.config import Config
from yearling.core.errors import ConfigError, ModelFormatError, UnsupportedError
from yearling.models.checkpoint import Checkpoint
from yearling.models.export_check import check_config
from yearling.models.json_file import read_json_object
from yearling.models.spec import Attention, LayerSpec, ModelSpec, Rotary, RotaryScaling

__all__ = [
    "CONTEXT_FILE",
    "AdapterContext",
    "ContextConfig",
    "configuration_with",
    "context_notice",
    "extend_context",
    "read_adapter_context",
    "spec_with",
    "write_adapter_context",
]

CONTEXT_FILE = "yearling_context.json"
"""Beside an adapter: which positions it was trained with."""

_ROTARY_KEYS = ("rope_parameters", "rope_scaling")
_MAX_CONFIG_BYTES = 8 << 20


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


class AdapterContext(Config):
    """The positions that an adapter was trained with, as `yearling_context.json` says them."""

    context: ContextConfig = Field(description="How the base's positions were stretched.")
    base_tokens: int = Field(ge=1, description="Context of the base, in tokens, before.")
    config: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Keys of config.json that say the same; none where the family has no such.",
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


def configuration_with(checkpoint: Checkpoint, spec: ModelSpec) -> dict[str, Any]:
    """Give config.json of a checkpoint's model with other positions.

    Args:
        checkpoint: Of the base, whose config.json stays as it is otherwise.
        spec: The base's, its context stretched.

    Raises:
        ModelFormatError: config.json has no place for them, or the family is not written.
    """
    write = checkpoint.family.config_from_spec
    if write is None:
        raise ModelFormatError(
            f"models of family {spec.family} are not written to folders yet, so stretched "
            "positions would be lost; train an adapter instead."
        )
    before: dict[str, Any] = {}
    if checkpoint.path.is_dir():
        before = read_json_object(checkpoint.path / "config.json", _MAX_CONFIG_BYTES)
        before = {key: value for key, value in before.items() if key not in _ROTARY_KEYS}
    config = before | write(spec)
    check_config(spec, checkpoint.family, config)
    return config


def write_adapter_context(folder: Path, checkpoint: Checkpoint, config: ContextConfig) -> None:
    """Say beside an adapter which positions of its base it was trained with."""
    spec = extend_context(checkpoint.spec, config)
    try:
        changed = configuration_with(checkpoint, spec)
        plain = configuration_with(checkpoint, checkpoint.spec)
    except ModelFormatError:
        changed = plain = {}
    different = {key: value for key, value in changed.items() if plain.get(key) != value}
    said = AdapterContext(context=config, base_tokens=checkpoint.spec.context, config=different)
    (folder / CONTEXT_FILE).write_text(said.model_dump_json(indent=2) + "\n", encoding="utf-8")


def read_adapter_context(folder: Path) -> AdapterContext | None:
    """Read which positions an adapter was trained with; None for those of its base.

    Raises:
        ModelFormatError: the file is malformed.
    """
    path = folder / CONTEXT_FILE
    if not path.is_file():
        return None
    try:
        return AdapterContext.model_validate(read_json_object(path, _MAX_CONFIG_BYTES))
    except ValidationError as error:
        raise ModelFormatError(f"{path} does not say an adapter's context: {error}") from error


def spec_with(spec: ModelSpec, saved: AdapterContext | None) -> ModelSpec:
    """Give the spec that an adapter was trained with.

    Args:
        spec: Of the base.
        saved: What stands beside the adapter.

    Raises:
        ModelFormatError: this base has another context than that of training.
    """
    if saved is None:
        return spec
    if saved.base_tokens != spec.context:
        raise ModelFormatError(
            f"the adapter was trained on a base of {saved.base_tokens} tokens, stretched to "
            f"{saved.context.tokens}; this one has {spec.context}. Take the base of the run."
        )
    return extend_context(spec, saved.context)


def context_notice(config: ContextConfig) -> str:
    """Say what becomes of an adapter where its positions are not known."""
    said = (
        f"This adapter was trained with positions stretched to {config.tokens} tokens "
        f"({config.method}). PEFT and transformers alone load it onto the unchanged base, and then "
        f"compute something else without an error. `yearling merge` applies {CONTEXT_FILE}"
    )
    if config.method in ("power", "truncated"):
        return f"{said}; transformers does not know these positions at all."
    return f"{said}; elsewhere, put the keys under `config` in it into the base's config.json."
