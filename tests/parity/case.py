"""What a family's parity file says: tiny models of every variant, and who knows the truth.

    case = Case(
        oracle=TransformersOracle("MistralForCausalLM"),
        config={"hidden_size": 32, ...},
        variants={"plain": {}, "window": {"sliding_window": 8}},
        ablations={"no window": lambda spec: ...},
    )

A family is one such file in `tests/parity/families`, named as the family is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tests.parity import families as _folder
from yearling.models.spec import Attention, Head, ModelSpec, Rotary

__all__ = [
    "Case",
    "Logits",
    "Oracle",
    "change_attention",
    "change_head",
    "change_rotary",
    "find_cases",
]

Logits = Callable[[Sequence[int], int], NDArray[np.float32]]
"""Ids and how many of them are the prompt -> logits (T, V), the rest decoded one by one."""


class Oracle(Protocol):
    """Makes a random model and knows its logits without any of our code.

    Attributes:
        name: Shown in the report.
    """

    name: str

    def make(self, folder: Path, config: Mapping[str, Any]) -> Logits:
        """Write a Hugging Face folder with weights that all matter; give what it computes."""
        ...


@dataclass(frozen=True, kw_only=True)
class Case:
    """One family's comparison.

    Attributes:
        oracle: Who knows the truth.
        config: Sizes that all variants share.
        variants: What each changes, by name.
        ablations: By name, what takes an essential part away from the spec of the variant that
            the name begins with, up to a colon, or of the first; the logits must then differ.
        num_tokens: Longest sequence compared.
        tolerance: Largest difference of any logit.
    """

    oracle: Oracle
    config: Mapping[str, Any]
    variants: Mapping[str, Mapping[str, Any]]
    ablations: Mapping[str, Callable[[ModelSpec], ModelSpec]]
    num_tokens: int = 44
    tolerance: float = 1e-4


def find_cases() -> dict[str, Case]:
    """Every case, by the name of its family."""
    names = [module.name for module in iter_modules(_folder.__path__)]
    return {name: import_module(f"tests.parity.families.{name}").case for name in names}


def change_attention(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Replace fields of every attention."""
    layers = [
        replace(layer, mixer=replace(layer.mixer, **changes))
        if isinstance(layer.mixer, Attention)
        else layer
        for layer in spec.layers
    ]
    return replace(spec, layers=tuple(layers))


def change_rotary(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Replace fields of the rotary positions of every attention."""
    layers = []
    for layer in spec.layers:
        assert isinstance(layer.mixer, Attention)
        assert isinstance(layer.mixer.positions, Rotary)
        rotary = replace(layer.mixer.positions, **changes)
        layers.append(replace(layer, mixer=replace(layer.mixer, positions=rotary)))
    return replace(spec, layers=tuple(layers))


def change_head(spec: ModelSpec, **changes: Any) -> ModelSpec:
    """Replace fields of the head."""
    assert isinstance(spec.head, Head)
    return replace(spec, head=replace(spec.head, **changes))
