"""Families of models: each a short file from a configuration to a `ModelSpec` and names.

A new family is one file here with one registered class; nothing central is edited. Its file
says which `model_type` and GGUF architecture it covers, makes a spec from either, and names
its weights.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from yearling.core.errors import ModelFormatError
from yearling.core.registry import Registry
from yearling.models.fields import Fields
from yearling.models.spec import ModelSpec
from yearling.models.weights import Role, WeightName

if TYPE_CHECKING:  # the readers import this module
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["Family", "families", "family_of_architecture", "family_of_model_type"]


class Family(Protocol):
    """What a family's file defines, as one class without state.

    Attributes:
        model_types: Values of `model_type` in config.json.
        gguf_architectures: Values of `general.architecture` in GGUF.
        weights: Name of each weight, by its role in a spec.
        ignored: Ends of tensor names that hold no weight, such as stored rotary tables.
    """

    model_types: ClassVar[tuple[str, ...]]
    gguf_architectures: ClassVar[tuple[str, ...]]
    weights: ClassVar[Mapping[Role, WeightName]]
    ignored: ClassVar[tuple[str, ...]]

    def spec_from_config(self, config: Fields) -> ModelSpec:
        """Read config.json.

        Raises:
            ModelFormatError: a value is missing, out of range, or asks for something unknown.
        """
        ...

    def spec_from_gguf(self, file: "GgufFile") -> ModelSpec:
        """Read a GGUF file's metadata, and which tensors it has.

        Raises:
            ModelFormatError: a value is missing, out of range, or asks for something unknown.
        """
        ...

    def gguf_row_order(self, role: Role, spec: ModelSpec, layer: int) -> NDArray[np.intp] | None:
        """For each row in Hugging Face's order, the row of the GGUF tensor; None when equal."""
        ...


families: Registry[type[Family]] = Registry("family", __name__, "yearling.families")
"""Every family, by the name of its file."""


def family_of_model_type(model_type: str) -> Family:
    """Find the family that covers a `model_type` of config.json.

    Raises:
        ModelFormatError: none does.
    """
    return _find("model_type", model_type, {kind: f for f in _all() for kind in f.model_types})


def family_of_architecture(architecture: str) -> Family:
    """Find the family that covers a `general.architecture` of GGUF.

    Raises:
        ModelFormatError: none does.
    """
    known = {kind: f for f in _all() for kind in f.gguf_architectures}
    return _find("general.architecture", architecture, known)


def _all() -> list[Family]:
    return [family() for _, family in families]


def _find(key: str, value: str, known: Mapping[str, Family]) -> Family:
    if value not in known:
        raise ModelFormatError(
            f"{key}={value!r} belongs to no known family; known are {', '.join(sorted(known))}."
        )
    return known[value]
