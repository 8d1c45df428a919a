"""Published sizes by name: the configuration of a model, without its weights.

The files in `published/` hold what each model's config.json says, so a preset is read by its
family's file as a real folder is. Each states how many parameters its source prints.
"""

import difflib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from yearling.core.errors import ModelNotFoundError
from yearling.models.families import family_of_model_type
from yearling.models.fields import Fields
from yearling.models.spec import ModelSpec

__all__ = ["Preset", "find_preset", "nearest_presets", "preset_names"]


@dataclass(frozen=True, slots=True)
class Preset:
    """A published size of a model.

    Attributes:
        name: For example `llama-2-70b`.
        source: Paper, or the repository whose config.json it is.
        config: What config.json says of the network, `model_type` included.
        parameters: Count that was published, or follows from published files; None where only
            a rounded one was.
        rounded: The rounded count as printed, for example `540.35e9`; empty beside an exact one.
        unread_parameters: How many of them are weights that a spec leaves out.
        note: What the sources leave open or contradict each other in, and what is taken here.
    """

    name: str
    source: str
    config: Mapping[str, Any]
    parameters: int | None
    rounded: str
    unread_parameters: int
    note: str

    @property
    def spec(self) -> ModelSpec:
        """What the network is.

        Raises:
            ModelFormatError: no family covers the `model_type`, or reads the configuration.
        """
        config = Fields(self.config, f"preset {self.name}")
        return family_of_model_type(config.text("model_type")).spec_from_config(config)


def preset_names() -> tuple[str, ...]:
    """Names of all presets, sorted.

    >>> "llama-2-70b" in preset_names()
    True
    """
    return tuple(sorted(_presets()))


def find_preset(name: str) -> Preset:
    """Find a published size by its name; case does not matter.

    Raises:
        ModelNotFoundError: there is none; the message names the nearest.

    >>> find_preset("Llama-2-70B").parameters
    68976648192
    """
    preset = _presets().get(name.lower())
    if preset is None:
        near = nearest_presets(name)
        advice = (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"{len(_presets())} are known, such as llama-2-70b."
        )
        raise ModelNotFoundError(f"there is no published size {name[:200]!r}: {advice}")
    return preset


def nearest_presets(name: str) -> tuple[str, ...]:
    """At most three presets whose names are most like this one.

    >>> nearest_presets("lama-2-70b")[0]
    'llama-2-70b'
    """
    return tuple(difflib.get_close_matches(name.lower(), preset_names(), n=3))


@cache
def _presets() -> Mapping[str, Preset]:
    found: dict[str, Preset] = {}
    folder = files("yearling.models") / "published"
    for file in folder.iterdir():
        if file.name.endswith(".toml"):
            for preset in _read(file.read_text("utf-8")):
                assert preset.name not in found, f"{preset.name} is published twice"
                found[preset.name] = preset
    return MappingProxyType(found)


def _read(text: str) -> Iterator[Preset]:
    for series in tomllib.loads(text)["series"]:
        for name, size in series["sizes"].items():
            yield Preset(
                name=name,
                source=series["source"],
                config=MappingProxyType({**series["config"], **size.get("config", {})}),
                parameters=size.get("parameters"),
                rounded=size.get("rounded", ""),
                unread_parameters=size.get("unread", 0),
                note="; ".join(part["note"] for part in (series, size) if "note" in part),
            )
