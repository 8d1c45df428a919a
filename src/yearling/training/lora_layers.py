"""Low-rank layers in a decoder: put in by PEFT, found, saved, loaded, switched off and merged.

Every adapter of LoRA's kind uses these; what differs is which layers it asks for.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from yearling.core.config import Config
from yearling.core.errors import ConfigError, ModelFormatError, UnsupportedError
from yearling.models.families import families
from yearling.models.spec import Head
from yearling.models.torch_decoder import TorchDecoder
from yearling.models.torch_decoder.leaves import TransposedLinear
from yearling.models.torch_decoder.tree import plant
from yearling.training.nf4 import NF4Linear
from yearling.training.peft_folder import (
    MODEL_PREFIX,
    PeftFolder,
    read_peft_folder,
    write_peft_folder,
)
from yearling.training.targets import ALL_LINEAR, find_linear, find_whole, leaf_roles

if TYPE_CHECKING:
    from peft.tuners.lora import Linear
    from peft.utils import ModulesToSaveWrapper

__all__ = [
    "ADAPTER",
    "LowRank",
    "attach_low_rank",
    "load_low_rank",
    "lora_layers",
    "low_rank_of",
    "merge_low_rank",
    "save_low_rank",
    "update_factors",
    "whole_layers",
    "without_low_rank",
]

ADAPTER = "default"
"""What PEFT calls the one adapter of a decoder."""

_KNOWN = (
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "modules_to_save"),
    *("ensure_weight_tying", "fan_in_fan_out", "init_lora_weights", "exclude_modules"),
    *("layers_to_transform", "layers_pattern", "megatron_config", "qalora_group_size"),
)
"""PEFT's settings that are read, or only say which layers were chosen or how they began."""


class LowRank(Config):
    """Options that all adapters of this kind have."""

    r: int = Field(default=16, ge=1, description="Rank of the update.")
    alpha: float = Field(
        default=32.0, gt=0, description="The update is multiplied by alpha / r, or alpha / sqrt(r)."
    )
    dropout: float = Field(
        default=0.0, ge=0, lt=1, description="Share of the update's inputs dropped in training."
    )
    targets: Literal["all-linear"] | tuple[str, ...] = Field(
        default=ALL_LINEAR,
        min_length=1,
        description="all-linear (all but the head), or roles and names of linear layers.",
    )
    use_rslora: bool = Field(
        default=False, description="Whether the factor is alpha / sqrt(r), for large ranks."
    )
    trained_whole: tuple[str, ...] = Field(
        default=(),
        description="Layers trained whole beside it: embeddings, norms, roles or names.",
    )

    @property
    def scaling(self) -> float:
        """Factor on the update."""
        return self.alpha / (math.sqrt(self.r) if self.use_rslora else self.r)


_HEADS = ("lm_head.weight", "embed_out.weight", "output_layer.weight")
"""Ends of names that heads have in checkpoints."""


def lora_layers(decoder: nn.Module) -> "Iterator[tuple[str, Linear]]":
    """Go through the layers with a low-rank update, by the names of what they stand for."""
    from peft.tuners.lora import Linear

    for name, module in decoder.named_modules():
        if isinstance(module, Linear):
            yield name, module


def update_factors(layer: "Linear") -> tuple[nn.Linear, nn.Linear]:
    """Give a layer's A (r, inputs) and B (outputs, r), whose product is the update."""
    first, second = layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    assert isinstance(first, nn.Linear)
    assert isinstance(second, nn.Linear)
    return first, second


def whole_layers(decoder: nn.Module) -> "Iterator[tuple[str, ModulesToSaveWrapper]]":
    """Go through the layers that are trained whole, by the names of what they stand for."""
    from peft.utils import ModulesToSaveWrapper

    for name, module in decoder.named_modules():
        if isinstance(module, ModulesToSaveWrapper):
            yield name, module


def attach_low_rank(decoder: TorchDecoder, wanted: LowRank, seed: int) -> None:
    """Put low-rank updates beside linear layers, and copies beside those trained whole.

    A begins uniform and B at zero, both in float32 whatever the type of the base; the seed decides
    A on every device alike. Nothing else has `requires_grad` afterwards.

    Raises:
        ConfigError: a target matches nothing, or the decoder has an adapter already.
    """
    import peft
    from peft.tuners.lora import Linear

    from yearling.training.fused_lora import FusedLoraLinear

    if getattr(decoder, "peft_config", None):
        raise ConfigError("this decoder has an adapter already; merge it or load the base again.")
    targets = find_linear(decoder, wanted.targets)
    whole = find_whole(decoder, wanted.trained_whole)
    if both := sorted(set(targets) & set(whole)):
        raise ConfigError(
            f"trained_whole names {both[0]}, which is one of the targets as well; "
            "a layer is trained either way, not both."
        )
    settings = peft.LoraConfig(
        r=wanted.r,
        lora_alpha=_whole_number(wanted.alpha),  # type: ignore[arg-type]
        lora_dropout=wanted.dropout,
        use_rslora=wanted.use_rslora,
        target_modules=targets,
        modules_to_save=whole or None,
        fan_in_fan_out=_is_transposed(decoder, targets),
    )
    settings._register_custom_module(
        {nn.Linear: FusedLoraLinear, TransposedLinear: Linear, NF4Linear: Linear}
    )
    # PEFT draws first values from the global generator; ours are drawn below. It warns of layers
    # that it has not seen, and then treats them as it should.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unsupported layer type")
        peft.inject_adapter_in_model(settings, decoder, ADAPTER)
    _initialise(decoder, seed)


def _is_transposed(decoder: TorchDecoder, targets: Sequence[str]) -> bool:
    """Whether target weights are (inputs, outputs); PEFT knows one answer for all of them."""
    kinds = {isinstance(decoder.get_submodule(name), TransposedLinear) for name in targets}
    if len(kinds) == 2:
        raise ConfigError(
            "targets hold layers that store (inputs, outputs) and others that store "
            "(outputs, inputs); PEFT's format has one `fan_in_fan_out` for all. Name one sort."
        )
    return kinds == {True}


def _initialise(decoder: TorchDecoder, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _, layer in lora_layers(decoder):
        first, second = (factor.float() for factor in update_factors(layer))
        bound = 1 / math.sqrt(first.in_features)
        values = torch.rand(first.weight.shape, generator=generator) * (2 * bound) - bound
        with torch.no_grad():
            first.weight.copy_(values)
            second.weight.zero_()


def save_low_rank(decoder: TorchDecoder, wanted: LowRank, folder: Path, base: str) -> None:
    """Write the adapter so that PEFT, transformers and vLLM load it."""
    tensors = {MODEL_PREFIX + name: value for name, value in _slots(decoder).items()}
    whole = dict(whole_layers(decoder))
    targets = [name for name, _ in lora_layers(decoder)]
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        "r": wanted.r,
        "lora_alpha": _whole_number(wanted.alpha),
        "lora_dropout": wanted.dropout,
        "use_rslora": wanted.use_rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": any(_is_stored_transposed(decoder, name) for name in targets),
        "target_modules": _short_names(decoder, targets),
        "modules_to_save": list(whole) or None,
    }
    tied = _tied_head(decoder, whole)
    if tied is not None:
        # PEFT unties what it trains whole, so a head that is the embedding has a copy of its own.
        head, embedding = tied
        settings["modules_to_save"] = [*whole, head]
        tensors[f"{MODEL_PREFIX}{head}.weight"] = tensors[
            f"{MODEL_PREFIX}{embedding}.weight"
        ].clone()
    write_peft_folder(folder, settings, tensors)


def _whole_number(value: float) -> float:
    """An integer where it is one: some readers of PEFT's files take nothing else."""
    return int(value) if value.is_integer() else value


def _is_stored_transposed(decoder: TorchDecoder, name: str) -> bool:
    """Whether checkpoints hold a leaf's weight as (inputs, outputs), whatever it is here."""
    return any(
        place.is_transposed for place in decoder.places.values() if place.name == f"{name}.weight"
    )


def _short_names(decoder: TorchDecoder, chosen: Sequence[str]) -> list[str]:
    """Last parts of names where these mean the same layers; vLLM knows only such."""
    short = {name.rpartition(".")[2] for name in chosen}
    meant = {name for name in leaf_roles(decoder) if name.rpartition(".")[2] in short}
    return sorted(short if meant == set(chosen) else chosen)


def _tied_head(decoder: TorchDecoder, whole: Mapping[str, Any]) -> tuple[str, str] | None:
    """Names of a tied head and of the embedding, when that is trained whole."""
    head, roles = decoder.spec.head, leaf_roles(decoder)
    embedding = next((name for name in whole if "embedding" in roles[name]), None)
    if embedding is None or not isinstance(head, Head) or not head.is_tied:
        return None
    named = families.names()
    if decoder.spec.family not in named:
        return None
    name = families.get(decoder.spec.family).names(decoder.spec).get("head")
    return None if name is None else (name.hugging_face, embedding)


def load_low_rank(decoder: TorchDecoder, folder: Path) -> None:
    """Put a saved adapter's values into a decoder that has one of the same form.

    Raises:
        ModelNotFoundError: the folder holds no adapter.
        ModelFormatError: it holds another adapter than the decoder has.
    """
    saved = read_peft_folder(folder)
    wanted = low_rank_of(saved)
    slots = _slots(decoder)
    names = {name.removeprefix(MODEL_PREFIX): name for name in _without_copies(saved)}
    if names.keys() != slots.keys():
        missing, extra = sorted(slots.keys() - names.keys()), sorted(names.keys() - slots.keys())
        raise ModelFormatError(
            f"{folder} holds another adapter than this decoder has: {len(missing)} tensors are "
            f"missing {missing[:2]}, {len(extra)} have no place {extra[:2]}."
        )
    for name, layer in lora_layers(decoder):
        if not math.isclose(layer.scaling[ADAPTER], wanted.scaling, rel_tol=1e-6):
            raise ModelFormatError(
                f"{folder} multiplies its updates by {wanted.scaling:g} (lora_alpha="
                f"{wanted.alpha:g}, r={wanted.r}), this decoder that of {name} by "
                f"{layer.scaling[ADAPTER]:g}."
            )
    with torch.no_grad():
        for name, parameter in slots.items():
            values = saved.tensors[names[name]]
            if values.shape != parameter.shape:
                raise ModelFormatError(
                    f"{folder}: {name} is {tuple(values.shape)}, the decoder's "
                    f"{tuple(parameter.shape)}."
                )
            parameter.copy_(values)


def _slots(decoder: TorchDecoder) -> dict[str, Tensor]:
    """What an adapter consists of, by the names it is saved under."""
    slots: dict[str, Tensor] = {}
    for name, layer in lora_layers(decoder):
        first, second = update_factors(layer)
        slots[f"{name}.lora_A.weight"] = first.weight
        slots[f"{name}.lora_B.weight"] = second.weight
    for name, wrapper in whole_layers(decoder):
        for part, value in wrapper.modules_to_save[ADAPTER].named_parameters():
            slots[f"{name}.{part}"] = value
    return slots


def _without_copies(saved: PeftFolder) -> list[str]:
    """Names of tensors, without a tied head's copy of the embedding."""
    matrices = [n for n, v in saved.tensors.items() if v.dim() == 2 and ".lora_" not in n]
    embeddings = [name for name in matrices if not name.endswith(_HEADS)]
    copies = {
        name
        for name in set(matrices) - set(embeddings)
        if any(torch.equal(saved.tensors[name], saved.tensors[other]) for other in embeddings)
    }
    return [name for name in saved.tensors if name not in copies]


def low_rank_of(saved: PeftFolder) -> LowRank:
    """Read what a saved adapter is; the layers are those that it has tensors for.

    Raises:
        ModelFormatError: it is none of LoRA's kind, or says what is not read here.
    """
    settings = saved.settings
    if settings.get("peft_type") != "LORA":
        raise ModelFormatError(
            f"{saved.path}: peft_type={settings.get('peft_type')!r} is no low-rank adapter."
        )
    saved.refuse_settings(*_KNOWN)
    names = [name.removeprefix(MODEL_PREFIX) for name in _without_copies(saved)]
    targets = [name.removesuffix(".lora_A.weight") for name in names if ".lora_A." in name]
    whole = {name.rpartition(".")[0] for name in names if ".lora_" not in name}
    try:
        return LowRank(
            r=int(settings["r"]),
            alpha=float(settings["lora_alpha"]),
            dropout=float(settings.get("lora_dropout") or 0.0),
            targets=tuple(targets),
            use_rslora=bool(settings.get("use_rslora")),
            trained_whole=tuple(sorted(whole)),
        )
    except (KeyError, TypeError, ValueError) as error:  # pydantic's error is a ValueError
        raise ModelFormatError(f"{saved.path}/adapter_config.json: {error!r}.") from error


def merge_low_rank(decoder: TorchDecoder) -> None:
    """Add the updates to the base's weights and take the adapter out.

    A weight of four bits becomes a full one: what it stands for, and the update.

    Raises:
        UnsupportedError: a base layer's weight cannot be changed.
    """
    merged = {name: _merged(name, layer) for name, layer in lora_layers(decoder)}
    merged |= {name: wrapper.modules_to_save[ADAPTER] for name, wrapper in whole_layers(decoder)}
    for name, layer in merged.items():
        plant(decoder, name, layer.requires_grad_(False))
    if hasattr(decoder, "peft_config"):
        del decoder.peft_config


def _merged(name: str, layer: "Linear") -> nn.Module:
    found = layer.get_base_layer()
    base = found.to_linear() if isinstance(found, NF4Linear) else found
    if type(base) not in (nn.Linear, TransposedLinear):
        raise UnsupportedError(
            f"{name} is a {type(base).__name__}, into which no update is merged. Load the base in "
            "float32 or bfloat16, load the adapter into it, and merge there."
        )
    with torch.no_grad():
        delta = layer.get_delta_weight(ADAPTER)
        weight = base.get_parameter("weight")
        weight.copy_(weight.float() + delta.float())
    return base


@contextmanager
def without_low_rank(decoder: TorchDecoder) -> Iterator[TorchDecoder]:
    """Compute with the base alone.

    `requires_grad` stays as it is, which PEFT's own switch would change: what wraps the decoder
    for distribution has counted the parameters.
    """
    modules: list[Any] = [layer for _, layer in lora_layers(decoder)]
    modules += [wrapper for _, wrapper in whole_layers(decoder)]
    # What PEFT calls private is the one switch that leaves `requires_grad` alone.
    before = [module._disable_adapters for module in modules]
    for module in modules:
        module._disable_adapters = True
    try:
        yield decoder
    finally:
        for module, was in zip(modules, before, strict=True):
            module._disable_adapters = was
