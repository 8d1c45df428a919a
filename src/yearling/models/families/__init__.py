"""Families of models: each a short file from a configuration to a `ModelSpec` and names.

A new family is one file here that registers one `Family`; nothing central is edited. Its file
says which `model_type` and GGUF architecture it covers, makes a spec from either, and names
its weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """What a family's file defines.

    Attributes:
        model_types: Values of `model_type` in config.json.
        spec_from_config: Reads config.json; raises `ModelFormatError` when a value is missing,
            out of range, or asks for something unknown.
        names: Name of each weight by its role in a spec, in the order of fused rows.
        gguf_architectures: Values of `general.architecture` in GGUF.
        spec_from_gguf: Reads a GGUF file's metadata, and which tensors it has; raises as
            `spec_from_config` does. None where GGUF has no such architecture.
        gguf_row_order: For each row in Hugging Face's order, the row of the GGUF tensor of a role
            in a layer; None when equal.
        prefixes: Beginnings of Hugging Face names that some files leave out.
        ignored: Ends of tensor names that hold no weight, such as stored rotary tables.
        config_from_spec: Writes config.json; None where nobody converts to a folder.
        gguf_from_spec: Writes GGUF metadata, without the tokenizer's; None likewise.
    """

    model_types: tuple[str, ...]
    spec_from_config: Callable[[Fields], ModelSpec]
    names: Callable[[ModelSpec], Mapping[Role, WeightName]]
    gguf_architectures: tuple[str, ...] = ()
    spec_from_gguf: "Callable[[GgufFile], ModelSpec] | None" = None
    gguf_row_order: Callable[[Role, ModelSpec, int], NDArray[np.intp] | None] | None = None
    prefixes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    config_from_spec: Callable[[ModelSpec], dict[str, Any]] | None = None
    gguf_from_spec: Callable[[ModelSpec], dict[str, Any]] | None = None


families: Registry[Family] = Registry("family", __name__, "yearling.families")
"""Every family, by the name of its file."""


def family_of_model_type(model_type: str) -> Family:
    """Find the family that covers a `model_type` of config.json.

    Raises:
        ModelFormatError: none does.
    """
    return _find("model_type", model_type, lambda family: family.model_types)


def family_of_architecture(architecture: str) -> Family:
    """Find the family that covers a `general.architecture` of GGUF.

    Raises:
        ModelFormatError: none does.
    """
    return _find("general.architecture", architecture, lambda family: family.gguf_architectures)


def _find(key: str, value: str, kinds: Callable[[Family], tuple[str, ...]]) -> Family:
    # Most are called as their file is; loading all the others takes a third of a second.
    if value in families.names() and value in kinds(namesake := families.get(value)):
        return namesake
    known = {kind: family for _, family in families for kind in kinds(family)}
    if value not in known:
        raise ModelFormatError(
            f"{key}={value!r} belongs to no known family; known are {', '.join(sorted(known))}."
        )
    return known[value]
