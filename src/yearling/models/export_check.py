"""Whether settings about to be written describe the model: they are read back and compared.

So a family's writer states what its format has, and whatever a spec has beyond that is refused
by its name here, before the first weight is written.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from yearling.core.errors import ModelFormatError
from yearling.models.checkpoint.formats import StoredTensor
from yearling.models.checkpoint.planned import PlannedTensor
from yearling.models.families import Family, family_of_architecture
from yearling.models.fields import Fields
from yearling.models.spec import ModelSpec

if TYPE_CHECKING:
    from yearling.models.checkpoint.gguf import GgufFile

__all__ = ["check_config", "check_gguf", "spec_differences"]

_SHOWN = 3


def check_config(spec: ModelSpec, family: Family, config: Mapping[str, Any]) -> None:
    """Read a config.json back that is about to be written.

    Raises:
        ModelFormatError: it describes another model.
    """
    written = Fields(json.loads(json.dumps(config)), "config.json")
    _check(spec, family.spec_from_config(written), "config.json")


def check_gguf(
    spec: ModelSpec, metadata: Mapping[str, Any], tensors: Sequence[PlannedTensor], path: Path
) -> None:
    """Read the metadata of a GGUF file back that is about to be written to `path`.

    Raises:
        ModelFormatError: it describes another model.
    """
    architecture = str(metadata["general.architecture"])
    reader = family_of_architecture(architecture).spec_from_gguf
    assert reader is not None, "a family of GGUF reads GGUF"
    planned = _PlannedFile(path, metadata, {tensor.name: tensor for tensor in tensors})
    # Readers ask for these three attributes and for tensors, which are the same in both.
    found = reader(cast("GgufFile", planned))
    _check(spec, found, f"GGUF's architecture {architecture}")


def spec_differences(one: ModelSpec, other: ModelSpec) -> list[str]:
    """Name what differs but for the rounding of numbers to float32.

    The family is not asked: a file of Mistral's without windows is a file of LLaMA's.
    """
    return [text for text in _differences("", asdict(one), asdict(other)) if text]


def _check(spec: ModelSpec, found: ModelSpec, where: str) -> None:
    differences = spec_differences(spec, found)
    if differences:
        more = f", and {len(differences) - _SHOWN} more" if len(differences) > _SHOWN else ""
        raise ModelFormatError(
            f"{where} has no place for all of this model of family {spec.family}. It would be read "
            f"as another: {'; '.join(differences[:_SHOWN])}{more}."
        )


def _differences(path: str, one: Any, other: Any) -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for key in one:
            if (path, key) != ("", "family"):
                yield from _differences(f"{path}.{key}".lstrip("."), one[key], other[key])
    elif isinstance(one, list | tuple) and isinstance(other, list | tuple):
        if len(one) != len(other):
            yield f"{len(other)} {path} instead of {len(one)}"
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from _differences(f"{path}[{number}]", *pair)
    elif isinstance(one, float) and isinstance(other, float):
        if not math.isclose(one, other, rel_tol=1e-6):
            yield f"{path}={other} instead of {one}"
    elif one != other:
        yield f"{path}={other} instead of {one}"


@dataclass(frozen=True, slots=True)
class _PlannedFile:
    """A GGUF file as its readers see it, before it is written."""

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, PlannedTensor]

    def tensor(self, name: str) -> StoredTensor:
        """Read one tensor."""
        return self.tensors[name].read()
